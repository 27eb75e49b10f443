#!/bin/sh
# Digits, default settings, seeds 0 to 2; a quarter of an hour of one core. From the top of the checkout:
# sh results/studies/digits/run.sh; then python -m gwfbench report --out results/runs/digits --write results/studies/digits
set -e
exec python -m gwfbench run --task images:data=digits --seeds 3 --no-curve --out ${OUT:-results/runs/digits} \
  --method drifting --method drifting:features=encoder --method gan
