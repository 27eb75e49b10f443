#!/bin/sh
# Generators on MNIST and, with the same settings, on Fashion-MNIST, one minute of one core a run, seeds 0 to 2; an hour
# of one core in all. From the top of the checkout, with MNIST's files in the folder mnist of GWFBENCH_DATA (Fashion-
# MNIST's are Debian's, apt install dataset-fashion-mnist): sh results/studies/mnist/run.sh; then
# python -m gwfbench report --out results/runs/mnist --laws last --write results/studies/mnist
set -e
exec python -m gwfbench run --task images:data=${DATA:-mnist|fashion_mnist} --seeds ${SEEDS:-3} --no-curve \
  --jobs ${JOBS:-1} --out ${OUT:-results/runs/mnist} --method gan@mnist-quick --method gwf@mnist-quick \
  --method gwf@mnist-quick:step=inf --method gwf@mnist-quick:divergence=mmd --method drifting@mnist-quick \
  --method drifting@mnist-encoder-quick --method jko_flow@mnist-quick --method sjko@mnist-quick
