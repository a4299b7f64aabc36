#!/usr/bin/env bash
# ImageNet+ as published (arXiv 2303.08983): 400 views an image, the 10 likeliest classes, the mean of four teachers.
#   examples/reinforce_imagenet_ensemble.sh IMAGENET/train OUT [32X48D.pth]
#
# The published ensemble is IG-ResNeXt101 32x8d, 32x16d, 32x32d and 32x48d: weakly supervised on Instagram images (Mahajan et
# al. 2018), fine-tuned on ImageNet, of torch.hub's facebookresearch/WSL-Images; licence of the weights CC BY-NC 4.0. timm has
# the weights of the first three. 32x48d is a 32x32d with a base width of 48 (828,411,176 parameters), and its file of weights,
# 3.3 GB, is downloaded to 32X48D.pth if it is not there. timm's old names (ig_resnext101_32x48d, …) all give 32x8d; they are
# refused here.
set -euo pipefail
images=$1 out=$2 weights=${3:-ig_resnext101_32x48-3e41cc8a.pth}

# The part of the name after the dash is the beginning of the file's SHA-256, as torch.hub has it.
if [[ ! -e $weights ]]; then
  curl -fL -o "$weights.part" https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth
  [[ $(sha256sum <"$weights.part") == 3e41cc8a* ]]
  mv "$weights.part" "$weights"
fi

teacher=resnext101_32x8d.fb_wsl_ig1b_ft_in1k
teacher+=,resnext101_32x16d.fb_wsl_ig1b_ft_in1k
teacher+=,resnext101_32x32d.fb_wsl_ig1b_ft_in1k
teacher+=",resnext101_32x32d@$weights{base_width: 48}"

# The paper spent 2,205 GPU hours. Workers may be added and taken away; see reinforce_folder.sh for Slurm.
torchrun --nproc-per-node gpu -m dali_dr reinforce "$images" --out "$out" --teacher "$teacher" \
  --spec rrc+ra+re --views 400 --topk 10 --amp bfloat16 --on-error skip

dali-dr verify "$out" --teacher "$teacher" --samples 1000
dali-dr subset "$out" --out "$out-small" --views 100 --topk 5 # "Small" of the paper
dali-dr subset "$out" --out "$out-mini" --views 50 --topk 10  # "Mini"
