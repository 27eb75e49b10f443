#!/bin/sh
# Adversarial flows, JKO-Flow and drifting on images; digits with three seeds take about 40 minutes of one core, and
# Fashion-MNIST with one seed (FASHION=3 for three) as long. From the top of the checkout: sh results/studies/images/run.sh; then
# python -m gwfbench report --out results/runs/images --task images --laws last --write results/studies/images
set -e
run="python -m gwfbench run --no-curve --jobs ${JOBS:-1} --out ${OUT:-results/runs/images} --format csv"
{
  size=width=32,batch=128
  $run --task images --seeds 3 --method gan:iterations=2500,$size --method gan:loss=wgan_gp,iterations=1000,$size \
    --method gan:loss=sngan,iterations=1500,$size \
    --method gwf:steps=10,iterations=400,$size --method gwf:step=inf,steps=10,iterations=400,$size \
    --method gwf:divergence=mmd,steps=10,iterations=150,$size \
    --method gwf:divergence=mmd,step=inf,steps=10,iterations=150,$size --method drifting \
    --method jko_flow:width=16,critic=dcgan,critic_width=32,steps=10,iterations=150,critic_steps=3,lr=0.001,batch=64
  size=width=16,batch=64,ema=0.99 rates=lr=0.002,critic_lr=0.002
  flow=jko_flow:width=8,critic=dcgan,critic_width=16,lr=0.001,batch=64
  $run --task images:data=fashion_mnist --seeds ${FASHION:-1} --method gan:iterations=3000,lr=0.002,$size \
    --method gan:loss=sngan,iterations=2000,critic_steps=2,lr=0.002,$size \
    --method gan:loss=wgan_gp,iterations=2000,critic_steps=2,lr=0.002,$size \
    --method gwf:steps=10,iterations=300,$rates,$size --method gwf:step=inf,steps=10,iterations=300,$rates,$size \
    --method gwf:divergence=mmd,steps=10,iterations=250,$rates,$size \
    --method gwf:divergence=mmd,step=inf,steps=10,iterations=250,$rates,$size --method drifting \
    --method $flow,steps=10,iterations=100,critic_steps=3 \
    --method $flow,step=50,steps=6,iterations=200,critic_steps=2,pool=8192
} > /dev/null
