#!/bin/sh
# Every valid pair of a task and a method, three seeds, at a quick setting; about an hour of two cores with JOBS=2.
# From the top of the checkout: sh results/quick/run.sh; then
# python -m gwfbench report --out results/runs/quick --laws last --write results/quick
set -e
run="python -m gwfbench run --seeds 3 --no-curve --jobs ${JOBS:-1} --out ${OUT:-results/runs/quick} --format csv"
samples="--method mmd_flow --method kale_flow --method drmmd --method sliced_flow --method riesz_flow
  --method sinkhorn_flow --method vgrow --method gf_drifting --method drifting:carrier=particles,steps=150
  --method gan:iterations=1000 --method gwf:iterations=200 --method sjko:steps=5,iterations=100
  --method jko_flow:steps=5,iterations=60,critic_steps=3 --method vjko:steps=10,iterations=100,critic_steps=3,batch=512,pool=65536"
density="--method ula --method mala --method svgd --method blob --method ksd_descent --method gaussian_vi"
{
  for task in two_points sphere; do $run --task $task $samples; done
  $run --task ou $density --method vjko:iterations=100,critic_steps=3,pool=65536 --method jko_icnn:iterations=100,pool=65536
  for task in gaussian gmm toy2d; do
    $run --task $task $samples $density --method jko_icnn:steps=5,iterations=100,pool=65536
  done
  $run --task blr $density --method jko_icnn:step=1.0,steps=5,iterations=60,pool=65536 \
    --method vjko:step=0.1,steps=12,iterations=100,critic_steps=3,batch=512,pool=65536,lr=0.001,critic_lr=0.003,proposal=student,rows=512
  $run --task aggregation --method jko_icnn:step=0.5,steps=20,iterations=60,pool=65536 \
    --method vjko:step=0.25,iterations=60,critic_steps=3,batch=256,pool=65536,map=prelu,width=16,depth=4,lr=0.002
  $run --task aggregation_diffusion --method porous_particles --method jko_icnn:step=0.5,iterations=60,pool=65536 \
    --method vjko:step=0.5,iterations=50,critic_steps=3,batch=512,pool=65536,map=prelu,head=exp1,width=16,depth=4,lr=0.001,critic_width=16,critic_depth=3
  $run --task barenblatt:step=0.0025,steps=10 --method porous_particles \
    --method jko_icnn:step=0.0005,iterations=30,pool=65536,lr=0.002 \
    --method vjko:step=0.0005,iterations=30,critic_steps=3,pool=65536,map=icnn,lr=0.002,critic_width=16,critic_depth=4
  $run --task images $(echo "$samples" | sed 's/--method sjko[^ ]*//; s/--method jko_flow[^ ]*//') \
    --method sjko:steps=5,iterations=100,width=32 \
    --method jko_flow:steps=5,iterations=60,critic_steps=3,width=16,critic=dcgan,critic_width=32
} > /dev/null
