# The two commands: `make demo` and `make test`. Both set up everything they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cmake' -o -name CMakeLists.txt)

.PHONY: setup demo test test-all lint native coverage device-test gpu-proof bench clean system

setup: $(VENV)/.installed $(VENV)/.plugin

# Debian packages that the build needs, when missing; elsewhere CMake's message names what to install.
system:
	@if ! echo '#include <zstd.h>' | $${CXX:-c++} -E -x c++ - >/dev/null 2>&1 && command -v apt-get >/dev/null; then \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends libzstd-dev g++; fi

$(VENV)/.installed: pyproject.toml constraints.txt | system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt 'setuptools>=77' 'cmake>=3.24' ninja
	# torch by itself and first, so that the build of it that suits this machine is taken
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt 'nvidia-dali-cuda120==2.4.*'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[demo,test]'
	touch $@ $(VENV)/.plugin

# The plugin alone, when only C++ or CUDA changed.
$(VENV)/.plugin: $(VENV)/.installed setup.py $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py -q build_ext --inplace
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup lint native coverage device-test
	$(BIN)/python -m pytest -n 2 -m "not slow" tests

test-all: setup lint native coverage device-test
	$(BIN)/python -m pytest -n 2 tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.h' -o -name '*.cc' -o -name '*.cu')

# C++ tests and fuzzers under AddressSanitizer and UndefinedBehaviorSanitizer: no DALI, no Python, no CUDA.
native: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/native -G Ninja -DDALI_DR_SANITIZE=ON -DDALI_DR_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/native
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/native --output-on-failure

# Lines of csrc that the C++ tests run; fails where a folder that decides what a sample is has fewer than 95 %.
coverage: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/coverage -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS="--coverage -O0" \
	  -DDALI_DR_BLOCK_ROUNDS=60 >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/coverage
	$(BIN)/ninja -C build/coverage -t cleandead >/dev/null
	find build/coverage -name '*.gcda' -delete
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/coverage -j 2 --output-on-failure -E '^fuzz'
	$(BIN)/python csrc/tests/coverage.py build/coverage $(notdir $(wildcard csrc/view csrc/samples csrc/image csrc/record csrc/shards))

# The kernels and their test, compiled by nvcc alone where there is one; its cases run on host threads. On a GPU: gpu-proof.
device-test: setup
	@if command -v nvcc >/dev/null; then set -e; export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	  cmake -S csrc/tests/device -B build/device-test -G Ninja >/dev/null; log=build/device-test/build.log; \
	  cmake --build build/device-test >$$log 2>&1 || { cat $$log; exit 1; }; cat $$log; \
	  if grep -A 2 'entry function.*ReplayInShared' $$log | grep 'spill' | grep -v ' 0 bytes spill stores, 0 bytes spill loads'; then \
	    echo "ReplayInShared spills registers: bench/kernel_report.py shows where; docs/gpu.md has what was tried" >&2; exit 1; fi; \
	  build/device-test/device_test --device cpu --seconds 300; \
	else echo "device test: not compiled, because there is no nvcc on the PATH"; fi

# On a machine with a GPU: every byte, every rate, within minutes; docs/gpu.md. PROOF_PHOTOS=DIR names JPEG files.
gpu-proof: setup
	@export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python"; bench/gpu_proof.sh device; device=$$?; \
	  bench/gpu_proof.sh dali && exit $$device

bench: setup
	$(BIN)/python bench/throughput.py

clean:
	rm -rf build dist *.egg-info dali_dr/libdali_dr_ops.so dali_dr/_build.json demo-output
