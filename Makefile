# make test   sets up .venv where it is missing or out of date, then lints, type-checks and tests
# make native checks the native core further: warnings, sanitizers, other processors
# make demo   compares the methods on scikit-learn's digits, three seeds, about two minutes on two cores
# DEMO_ARGS='--seeds 0' and the like come last on the demo's command line and win.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(shell find src -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)
DEMO_ARGS ?=

.PHONY: test lint native demo clean

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=8

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The native core's warnings, sanitizers and other processors; needs Debian's packages, which it names.
native: $(READY)
	tools/native-checks

demo: $(READY)
	$(BIN)/sparsecycle compare --data digits \
		--methods dense progressive one-cycle agp iterative one-shot cyclical \
		--sparsities 0.8 0.9 0.95 0.98 --seeds 0 1 2 --scope global --runs runs/demo $(DEMO_ARGS)

# The tools that build the native core are in .venv too, so that a change of its sources compiles these alone. Where the
# core cannot be built this fails. The stamp is touched last: an installation that broke off is done again.
$(READY): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt cmake nanobind ninja scikit-build-core
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable ".[lab,export,dev]" \
		--config-settings=build-dir=build/editable --config-settings=cmake.define.SPARSECYCLE_NATIVE=ON
	touch $@

# Runs are kept: they are results.
clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f src/sparsecycle/native/*.so
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
