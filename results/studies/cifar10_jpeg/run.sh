#!/bin/sh
# Generators on JPEG copies of CIFAR-10, three minutes of one core a run, seeds 0 to 2; an hour and a half of one core in
# all. From the top of the checkout, with the folder of the copies in GWFBENCH_DATA: sh results/studies/cifar10_jpeg/run.sh; then
# python -m gwfbench report --out results/runs/cifar10_jpeg --laws last --write results/studies/cifar10_jpeg
set -e
exec python -m gwfbench run --task images:data=cifar10_jpeg --seeds ${SEEDS:-3} --no-curve --jobs ${JOBS:-1} \
  --out ${OUT:-results/runs/cifar10_jpeg} --method gan@cifar10-quick --method gwf@cifar10-quick \
  --method gwf@cifar10-quick:step=inf --method gwf@cifar10-quick:divergence=mmd --method drifting@cifar10-quick \
  --method drifting@cifar10-encoder-quick --method jko_flow@cifar10-quick --method sjko@cifar10-quick
