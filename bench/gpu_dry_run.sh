#!/usr/bin/env bash
# Everything of the GPU proof up to the device, here, as it will go on a bare machine: packs both calls, lays a copy of the
# tree beside them, and runs both stages there with --device cpu and the seconds of each step printed.
#   bench/gpu_dry_run.sh PARTS PHOTOS OUT
# The packed DALI libraries are the ones loaded. Only Python's own extension modules are exchanged, where the parts were
# packed for another Python than .venv's: DALI's from the cuda130 wheel, the others from .venv.
set -euo pipefail
[[ $# == 3 ]] || { echo "bench/gpu_dry_run.sh PARTS PHOTOS OUT" >&2 && exit 2; }
parts=$(realpath -m "$1") photos=$(realpath -m "$2") out=$(realpath -m "$3")
cd "$(dirname "$0")/.."
root=$PWD
mkdir -p "$out"
step() {
  local name=$1 begin end
  shift
  begin=$(date +%s.%N)
  "$@" >"$out/dry-$name.log" 2>&1 || { tail -n 40 "$out/dry-$name.log"; echo "step $name failed" >&2; exit 1; }
  end=$(date +%s.%N)
  printf '%-24s %6.1f s\n' "$name" "$(echo "$end - $begin" | bc)"
}
step pack bench/gpu_pack.sh "$parts" "$photos" "$out"
tail -n 3 "$out/dry-pack.log" | head -n 2
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
copy_tree() { git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$there"; }
step tree copy_tree
cd "$there"
export PROOF_STORE=$there/store PROOF_OUT=$there/results PYTHON=$root/.venv/bin/python PATH=$root/.venv/bin:$PATH
unset PYTHONPATH
# A machine with few cores takes minutes to compile what one with sixteen does in half of one.
export PROOF_SECONDS=600
step device bench/gpu_proof.sh device --device cpu "$out/call-1"
grep -E '^(build|bytes|rates|parts|[0-9]+ threads)' "$out/dry-device.log" || true
step unpack bench/gpu_proof.sh unpack "$out/call-2"
exchange() {
  local site=$there/store/site here=$root/.venv/lib/python3*/site-packages tag
  tag=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
  cp "$out"/dali-cuda130/nvidia/dali/*."$tag".so "$site/nvidia/dali"
  for package in libcst optree zstandard rpds nvtx; do
    rm -rf "${site:?}/$package" && cp -r $here/$package "$site"
  done
}
step exchange exchange
step dali bench/gpu_proof.sh dali --device cpu
grep -vE '^ *$' "$out/dry-dali.log" | tail -n 60
du -sb "$there/results" | awk '{printf "results: %d bytes\n", $1}'
