# The two commands: `make demo` and `make test`. Both set up everything they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cmake' -o -name CMakeLists.txt)

# The newest clang, if there is one of 14 or later; and seconds of fuzzing for each target.
CLANGXX ?= $(firstword $(foreach v,21 20 19 18 17 16 15 14,$(shell command -v clang++-$(v) 2>/dev/null)) $(shell command -v clang++ 2>/dev/null))
SECONDS ?= 60

.PHONY: setup demo test test-all lint native native-clang fuzz-build fuzz fuzz-if-clang memory coverage device-test gpu-proof bench wheels wheels-test notebook docs docs-links pictures clean system

setup: $(VENV)/.installed $(VENV)/.plugin

# Debian packages that the build and the tests need, when missing; elsewhere CMake's message names what to install, and
# tests/zoo_tools.py leaves out what it has no tools for.
system:
	@if ! printf '#include <zstd.h>\n#include <cstdio>\n#include <jpeglib.h>\n' | $${CXX:-c++} -E -x c++ - >/dev/null 2>&1 \
	  && command -v apt-get >/dev/null; then SUDO=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends libzstd-dev libjpeg-dev g++; fi
	@if command -v apt-get >/dev/null && ! { command -v cjpeg && command -v cwebp && command -v webpmux; } >/dev/null; then \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); $$SUDO apt-get update -qq; \
	  $$SUDO apt-get install -y -qq --no-install-recommends libjpeg-turbo-progs webp || echo "left out: files that cjpeg and cwebp make for tests/zoo.py"; fi
	@if [ "$$CI" = true ] && command -v apt-get >/dev/null && \
	  ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); $$SUDO apt-get update -qq; \
	  $$SUDO apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core || echo "left out: tests of pages in a browser"; fi
	@if [ "$$CI" = true ] && [ -z "$(CLANGXX)" ] && command -v apt-get >/dev/null; then \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); $$SUDO apt-get update -qq; \
	  for v in 19 18 17 16 15 14; do $$SUDO apt-get install -y -qq --no-install-recommends clang-$$v libclang-rt-$$v-dev llvm-$$v && break; done || true; fi

$(VENV)/.installed: pyproject.toml constraints.txt | system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt 'setuptools>=77' 'cmake>=3.24' ninja
	# torch by itself and first, so that the build of it that suits this machine is taken
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt "$${DALI:-$$($(BIN)/python release/flavour.py)}"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[demo,test,fuzz,docs]'
	$(BIN)/python -m dali_dr._torchvision  # own scripts can import torchvision, also beside a torch without CUDA
	touch $@ $(VENV)/.plugin

# The plugin alone, when only C++ or CUDA changed.
$(VENV)/.plugin: $(VENV)/.installed setup.py $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py -q build_ext --inplace
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup lint native coverage device-test fuzz-if-clang
	$(BIN)/python -m pytest -n 2 -m "not slow" tests

test-all: setup lint native native-clang coverage device-test fuzz-if-clang
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
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/native -j 2 --output-on-failure

# The fuzzers, by clang under the same sanitizers, with libraries that they see into. -O1: built in less time, as fast.
fuzz-build: setup
	@test -n "$(CLANGXX)" || { echo "no clang++ on the PATH (Debian: apt-get install clang libclang-rt-14-dev)" >&2; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$(CLANGXX) -DDALI_DR_SANITIZE=ON \
	  -DDALI_DR_LIBFUZZER=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -gline-tables-only" \
	  -DDALI_DR_BLOCK_ROUNDS=100 >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/fuzz --target fuzz_targets

# All C++ tests by clang, from the same build; and the parsers under MemorySanitizer.
native-clang: fuzz-build memory
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/fuzz
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/fuzz -j 2 --output-on-failure

# What keeps the inputs of the parsers, and blind mutations of them, under MemorySanitizer.
memory: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/memory -G Ninja -DCMAKE_CXX_COMPILER=$(CLANGXX) -DDALI_DR_SANITIZE=MEMORY \
	  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -gline-tables-only" -DDALI_DR_FUZZ_MUTATIONS=2000 >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/memory --target fuzz_targets
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/memory -j 2 --output-on-failure

# Fuzzes every parser and contract for SECONDS each, two at a time; docs/fuzzing.md.
fuzz: fuzz-build
	$(BIN)/python csrc/fuzz/run.py build/fuzz --seconds $(SECONDS)
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

# As part of the tests: for as long as they can wait, where there is a clang. CI brings one.
fuzz-if-clang: setup
	@if command -v $(or $(CLANGXX),clang++) >/dev/null; then \
	  $(MAKE) --no-print-directory fuzz memory SECONDS=$${FUZZ_SECONDS:-10}; \
	else echo "fuzzing: left out, because there is no clang++ on the PATH"; fi

# Lines of csrc that the C++ tests run; fails where a folder that decides what a sample is has fewer than 95 %.
coverage: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/coverage -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS="--coverage -O0" \
	  -DDALI_DR_BLOCK_ROUNDS=60 >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/coverage
	$(BIN)/ninja -C build/coverage -t cleandead >/dev/null
	find build/coverage -name '*.gcda' -delete
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/coverage -j 2 --output-on-failure -E '^fuzz'
	$(BIN)/python csrc/tests/coverage.py build/coverage $(notdir $(wildcard csrc/view csrc/draw csrc/samples csrc/image csrc/jpeg csrc/labels csrc/pickle csrc/published csrc/record csrc/shards))

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

# The documentation, in build/docs. Whatever is wrong with it, a dead link too, is an error; tests/test_site.py does the same.
docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	$(BIN)/python docs/check_links.py build/docs

# Asks every server that a page links to.
docs-links: setup
	$(BIN)/python -m sphinx -q -b linkcheck docs build/docs-links

# The drawings of docs/pictures, made anew.
pictures: setup
	$(BIN)/python docs/pictures/make.py

bench: setup
	$(BIN)/python bench/throughput.py

# The notebook's stored output: runs it in its folder, as Jupyter does. Needs pip install nbclient ipykernel.
notebook: setup
	cd examples && PYTHONPATH=.. ../.venv/bin/jupyter-execute --inplace notebook.ipynb

# dist/*.tar.gz and a manylinux wheel for each flavour of DALI, checked by auditwheel and twine; and their installation
# into empty environments of the Pythons that are here, which trains a batch without a compiler.
wheels: system
	$(PYTHON) release/wheels.py

wheels-test: wheels
	$(PYTHON) release/try_wheel.py dist/dali_dr-*.whl dist/dali_dr_cuda130-*.whl

clean:
	rm -rf build dist *.egg-info dali_dr/libdali_dr_ops.so dali_dr/_build.json demo-output
