#!/usr/bin/env bash
# Reinforce a folder of images (CLASS/NAME.jpg), check the result against the teacher, and make a small variant of it.
#   examples/reinforce_folder.sh IMAGES OUT [TEACHER]
# Kill it whenever you like: the same command goes on where it stopped. On several GPUs or machines, see the end.
set -euo pipefail
images=$1 out=$2 teacher=${3:-efficientnet-lite0}

# 32 views an image, the 10 likeliest classes of each; damaged images are left out and listed in OUT/report/skipped.jsonl.
dali-dr reinforce "$images" --out "$out" --teacher "$teacher" --views 32 --topk 10 --on-error skip

# Replay 200 random views as training does, ask the teacher again, and compare.
dali-dr verify "$out" --teacher "$teacher" --samples 200

# 8 of the 32 views and 5 of the 10 classes, without the teacher.
dali-dr subset "$out" --out "$out-small" --views 8 --topk 5

dali-dr preview "$out" --out "$out/report/contact-sheet.png"

# All GPUs of a machine:
#   torchrun --nproc-per-node gpu -m dali_dr reinforce IMAGES --out OUT --teacher NAME --views 400
# Any number of machines that share OUT, with Slurm (workers may join later, and die):
#   srun --ntasks 32 --gpus-per-task 1 python -m dali_dr reinforce IMAGES --out OUT --teacher NAME --views 400
# Images that lie in webdataset tars already, which stay as they are:
#   dali-dr reinforce --input 'train/*.tar' --sidecar --out OUT --teacher NAME
