#!/usr/bin/env bash
# Proves and measures the GPU path in two stages, each within minutes on a bare CUDA machine; what fails costs only itself.
#   bench/gpu_proof.sh device [--device cpu] [CARRIED]   builds the kernels with nvcc alone: every byte against the CPU path,
#                                                        repeats under load, times of kernels and parts (150 s at most)
#   bench/gpu_proof.sh dali [--device cpu] [CARRIED]     gpu tests, decoding under stress, loaders, training steps (330 s)
#   bench/gpu_proof.sh unpack [CARRIED]                  what `dali` does first
# Where DALI and the package are installed (`make gpu-proof`), CARRIED is left out. On a machine without a network it is a
# folder that bench/gpu_pack.sh made: the first stage puts call-1 aside in PROOF_STORE, the second adds call-2 and unpacks.
# Stage `device` needs nvcc, CMake, a C++20 compiler and Python's standard library; stage `dali` PyTorch, torchvision, timm,
# Pillow, pytest and pytest-xdist for the Python that the parts were packed for. --device cpu runs both where there is no GPU, small.
#   PYTHON       the interpreter (python3)            PROOF_STORE   (/tmp/dali-dr-proof)
#   PROOF_OUT    where JSON goes (bench/results)      PROOF_PHOTOS  JPEG files (those carried; else the demo's)
#   PROOF_SECONDS  limit of the stage                 PROOF_STEPS   of gpu_proof.py, separated by commas
# JSON is named by device, stage and time: a second try keeps the figures of the first.
# It only uses the GPU: no clocks, modes or partitions are touched.
set -euo pipefail
usage="bench/gpu_proof.sh device|dali|unpack [--device gpu|cpu] [CARRIED]"
fail() {
  echo "$1" >&2
  exit 2
}
absolute() { realpath -m "$1"; } # of the caller's folder: to be called before cd
begin=$(date +%s)
stage=${1:-} where=gpu
[[ $stage == device || $stage == dali || $stage == unpack ]] || fail "what is stage ${stage:-?}: $usage"
shift
if [[ ${1:-} == --device ]]; then
  where=${2:-}
  [[ $where == gpu || $where == cpu ]] || fail "--device is gpu or cpu: $usage"
  shift 2
fi
carried=${1:+$(absolute "$1")}
[[ -z $carried || -d $carried ]] || fail "$carried is no folder: $usage"
[[ ${PROOF_SECONDS:-1} =~ ^[0-9]+$ ]] || fail "PROOF_SECONDS is $PROOF_SECONDS: whole seconds are wanted"
# What was put aside counts only where it was asked for, so that a forgotten folder changes nothing.
store=$(absolute "${PROOF_STORE:-/tmp/dali-dr-proof}")
[[ -n $carried || -n ${PROOF_STORE:-} ]] || store=/nonexistent
photos=$(absolute "${PROOF_PHOTOS:-$store/photos}")
[[ -z ${PROOF_PHOTOS:-} || -d $photos ]] || fail "PROOF_PHOTOS names $photos, which is no folder"
out=${PROOF_OUT:+$(absolute "$PROOF_OUT")}
cd "$(dirname "$0")/.."
out=${out:-$PWD/bench/results}
mkdir -p "$out" 2>/dev/null && [[ -w $out ]] || fail "JSON cannot be written into $out: name another folder in PROOF_OUT"
python=${PYTHON:-python3}
site=$store/site
json=$out/$where-$stage-$(date +%Y-%m-%dT%H%M%S).json # a second try keeps the figures of the first
export PYTHONUNBUFFERED=1
export PATH=$PATH:/usr/local/cuda/bin
say() { echo "$(($(date +%s) - begin)) s: $*" >&2; }
left() { echo $((begin + ${PROOF_SECONDS:-$1} - $(date +%s))); }

if [[ -n $carried ]]; then
  mkdir -p "$store"
  cp -r "$carried"/. "$store"
  say "put aside: $(find "$store" -maxdepth 1 -name 'part-*' -printf '%f ' | sort)"
fi

unpack() {
  [[ -f $store/parts.sha256 && ! -f $site/.whole ]] || return 0
  (cd "$store" && sha256sum --quiet -c parts.sha256) || {
    echo "parts are missing or damaged in $store: run stage device with call-1 on this very machine first" >&2
    exit 1
  }
  mkdir -p "$site"
  local zstd
  zstd=$(command -v zstd || echo "$store/bin/zstd")
  cat "$store"/part-* | "$zstd" -q -d --long=27 | tar -x -C "$site"
  cp -r "$store"/packages/. "$site"
  touch "$site/.whole"
  say "unpacked: $(du -sm "$site" | cut -f 1) MiB"
}

case $stage in
device)
  exec "$python" bench/device_stage.py --device "$where" --seconds "$(left 145)" --json "$json"
  ;;
unpack) unpack ;;
dali)
  unpack
  export PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
  if [[ -d $site ]]; then
    export DALI_DR_PLUGIN=$store/plugin/libdali_dr_ops.so
    export PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH}
    # Some wheels make `nvidia` a package of its own, which hides that of DALI.
    "$python" -c "import nvidia.dali" 2>/dev/null ||
      echo '__path__ = __import__("pkgutil").extend_path(__path__, __name__)' >"$site/nvidia/__init__.py"
    "$python" -c "import nvidia.dali.backend_impl" 2>/dev/null || ls "$site"/nvidia/dali/backend_impl."$("$python" -c \
      'import sysconfig; print(sysconfig.get_config_var("SOABI"))')".so >/dev/null 2>&1 ||
      fail "the parts were packed for another Python than $("$python" --version): $(ls "$site"/nvidia/dali/backend_impl.*)"
    export LD_LIBRARY_PATH=$site/zstd/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  fi
  "$python" -W ignore -c 'from dali_dr import _plugin; _plugin.load(); print("plugin loaded:", _plugin.build_facts())'
  say "DALI and the plugin are loaded"
  [[ $where == cpu ]] || "$python" -W ignore -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || {
    echo "PyTorch sees no GPU on this machine: --device cpu runs this small without" >&2
    exit 2
  }
  options=(--device "$where" --json "$json")
  [[ ! -d $photos ]] || options+=(--photos "$photos")
  if [[ -n ${PROOF_STEPS:-} ]]; then
    IFS=, read -ra steps <<<"$(sed 's/ *, */,/g' <<<"$PROOF_STEPS")"
    options+=(--steps "${steps[@]}")
  fi
  exec "$python" -W ignore bench/gpu_proof.py "${options[@]}" --seconds "$(left 325)"
  ;;
esac
