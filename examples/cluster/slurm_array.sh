#!/usr/bin/env bash
# Reinforce by a Slurm array, without Ray: task k of n makes every n-th shard, and whoever finds all there ends the data set.
#   sbatch --array 1-64 examples/cluster/slurm_array.sh IMAGES OUT TEACHER
# Tasks need not run at once, wait for nobody, and may be killed: submit those that failed again, and they go on where they
# stopped. Then the number of parts has to be said, since Slurm only tells of 7 and 12: PARTS=64 sbatch --array 7,12 …; of an
# array that counted from 0, also FIRST=0.
# Change these to what a machine has for each GPU:
#SBATCH --job-name=dali-dr
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
images=$1 out=$2 teacher=$3
if [ -n "${PARTS:-}" ]; then
  parts=$PARTS part=$((SLURM_ARRAY_TASK_ID - ${FIRST:-1} + 1))
else # the whole array, from whatever number on
  parts=$SLURM_ARRAY_TASK_COUNT
  part=$(((SLURM_ARRAY_TASK_ID - ${SLURM_ARRAY_TASK_MIN:-1}) / ${SLURM_ARRAY_TASK_STEP:-1} + 1))
fi
cpus=${SLURM_CPUS_PER_TASK:-8}

# srun does not take sbatch's --cpus-per-task by itself since Slurm 22.05.
srun --cpus-per-task="$cpus" \
  dali-dr reinforce "$images" --out "$out" --teacher "$teacher" --views 400 --topk 10 --amp bfloat16 --on-error skip \
  --part "$part/$parts" --device gpu --threads "$cpus" --quiet
