#!/usr/bin/env bash
# Reinforce on several machines of a Slurm cluster by Ray, a worker per GPU:
#   sbatch --nodes 8 examples/cluster/slurm_ray.sh IMAGES OUT TEACHER
# IMAGES and OUT are on a file system of all machines, or OUT is s3://BUCKET/FOLDER. Where a machine is lost, the others make
# its shards; where the job is (or its first machine), submit it again: it goes on where it stopped.
# Change these to what your machines have: here 8 GPUs and 64 CPUs each, which the job has alone.
#SBATCH --job-name=dali-dr
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
images=$1 out=$2 teacher=$3
nodes=${SLURM_JOB_NUM_NODES:-1}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
cpus=${SLURM_CPUS_PER_TASK:-64}
port=$((20000 + SLURM_JOB_ID % 10000)) # of this job alone, should two share a machine

# symmetric-run starts Ray on all machines, the command on the first, and stops Ray when that is done. It waits so long for
# the machines to be there; a minute is short where many start at once.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
# A machine that does not answer ends nothing but its own work; without this, srun would end all others with it.
# Nor does srun take sbatch's --cpus-per-task by itself, since Slurm 22.05.
srun --nodes "$nodes" --cpus-per-task="$cpus" --kill-on-bad-exit=0 --cpu-bind=none \
  ray symmetric-run --address "$head:$port" --min-nodes "$nodes" \
  --num-cpus "$cpus" --num-gpus "${SLURM_GPUS_ON_NODE:-8}" -- \
  dali-dr reinforce "$images" --out "$out" --teacher "$teacher" --views 400 --topk 10 --amp bfloat16 --on-error skip \
  --engine ray --address "$head:$port" --device gpu
