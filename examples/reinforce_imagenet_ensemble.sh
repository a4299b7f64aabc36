#!/usr/bin/env bash
# ImageNet+ as published (arXiv 2303.08983): 400 views an image, the 10 likeliest classes, the mean of four teachers.
#   examples/reinforce_imagenet_ensemble.sh IMAGENET/train OUT
#
# The published ensemble is IG-ResNeXt101 32x8d, 32x16d, 32x32d and 32x48d (weakly supervised on Instagram images, Mahajan et
# al. 2018; licence of the weights CC BY-NC 4.0). timm 1.x has no 32x48d any more, and its old name ig_resnext101_32x48d
# gives the weights of 32x8d with no more than a warning; so the fourth here is the semi-weakly supervised 32x16d (Yalniz et al.
# 2019). These are the models' names in `timm.list_models(pretrained=True)`.
set -euo pipefail
images=$1 out=$2
teacher=resnext101_32x8d.fb_wsl_ig1b_ft_in1k
teacher+=,resnext101_32x16d.fb_wsl_ig1b_ft_in1k
teacher+=,resnext101_32x32d.fb_wsl_ig1b_ft_in1k
teacher+=,resnext101_32x16d.fb_swsl_ig1b_ft_in1k

# The paper spent 2,205 GPU hours. Workers may be added and taken away; see reinforce_folder.sh for Slurm.
torchrun --nproc-per-node gpu -m dali_dr reinforce "$images" --out "$out" --teacher "$teacher" \
  --spec rrc+ra+re --views 400 --topk 10 --amp bfloat16 --on-error skip

dali-dr verify "$out" --teacher "$teacher" --samples 1000
dali-dr subset "$out" --out "$out-small" --views 100 --topk 5 # "Small" of the paper
dali-dr subset "$out" --out "$out-mini" --views 50 --topk 5   # "Mini"
