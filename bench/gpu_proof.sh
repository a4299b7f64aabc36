#!/usr/bin/env bash
# Builds, tests and measures the GPU path on a bare CUDA machine without a network: one command, under ten minutes.
#   bench/gpu_proof.sh [PARTS_DIR]
# The machine needs Python 3.12 with torch, torchvision, timm, Pillow, pytest and setuptools 77, nvcc, CMake, and a GPU.
# PARTS_DIR holds part-00, part-01 …, a zstd-compressed tar in pieces, of what the machine lacks: nvidia.dali and its
# dependencies, webdataset, zstandard, jsonschema, and zstd/include and zstd/lib with libzstd. Without it, what is
# installed is used. Environment:
#   PYTHON        the interpreter (python3)          PROOF_SITE   where PARTS_DIR is unpacked (/tmp/dali-dr-site)
#   PROOF_PHOTOS  folder of JPEG files               PROOF_STEPS  of "build test measure sanitize" (all)
#   PROOF_PARTS   of "copy replay loaders train gap" (all)   PROOF_SECONDS  in all (570)
#   PROOF_JSON    results (bench/results/gpu-DATE.json)
# It only uses the GPU: no clocks, modes or partitions are touched.
set -euo pipefail
cd "$(dirname "$0")/.."
begin=$(date +%s)
parts=${1:-}
python=${PYTHON:-python3}
site=${PROOF_SITE:-/tmp/dali-dr-site}
steps=${PROOF_STEPS:-build test measure sanitize}
total=${PROOF_SECONDS:-570}
json=${PROOF_JSON:-bench/results/gpu-$(date +%Y-%m-%d).json}
left() { echo $((begin + total - $(date +%s))); }
wants() { [[ " $steps " == *" $1 "* ]]; }
export PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH:/usr/local/cuda/bin
export PYTHONPATH=$PWD

if [[ -n $parts ]]; then
  if [[ ! -d $site/nvidia/dali ]]; then
    mkdir -p "$site"
    cat "$parts"/part-* | tar -x --zstd -C "$site"
  fi
  export PYTHONPATH=$PYTHONPATH:$site
  # Some wheels make `nvidia` a package of its own, which hides that of DALI.
  "$python" -c "import nvidia.dali" 2>/dev/null ||
    echo '__path__ = __import__("pkgutil").extend_path(__path__, __name__)' >"$site/nvidia/__init__.py"
  export ZSTD_INCLUDE_DIR=${ZSTD_INCLUDE_DIR:-$site/zstd/include}
  export ZSTD_LIBRARY=${ZSTD_LIBRARY:-$site/zstd/lib/libzstd.so}
  export LD_LIBRARY_PATH=$(dirname "$ZSTD_LIBRARY")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

if wants build; then
  for tool in nvcc cmake nvidia-smi; do
    command -v "$tool" >/dev/null || { echo "$tool is not on the PATH" >&2 && exit 1; }
  done
  "$python" -c 'import setuptools as s; assert int(s.__version__.split(".")[0]) >= 77, f"setuptools {s.__version__} is too old: carry 77"'
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  DALI_DR_CUDA=ON DALI_DR_CUDA_ARCHITECTURES=$capability "$python" setup.py -q build_ext --inplace 2>&1 | tail -n 5
  echo "built for sm_$capability after $(($(date +%s) - begin)) s" >&2
fi

outcome="not run"
if wants test; then
  outcome=$(timeout "$(left)" "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/test_plugin.py \
    -k "not sanitizer" 2>&1 | tee /dev/stderr | tail -n 1) || outcome="FAILED: $outcome"
fi

status=0
if wants measure; then
  options=(--json "$json" --tests "$outcome" --deadline "$(($(left) - 60))")
  [[ -z ${PROOF_PHOTOS:-} ]] || options+=(--photos "$PROOF_PHOTOS")
  # shellcheck disable=SC2206
  [[ -z ${PROOF_PARTS:-} ]] || options+=(--parts $PROOF_PARTS)
  timeout "$(left)" "$python" -W ignore bench/gpu_proof.py "${options[@]}" || status=$?
fi

if wants sanitize && (($(left) > 60)); then
  timeout "$(left)" "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k sanitizer 2>&1 | tail -n 5 || status=$?
fi
echo "tests: $outcome; figures: $json; $(($(date +%s) - begin)) s in all"
exit "$status"
