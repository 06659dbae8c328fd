# make demo    the embedded model and data, from nothing to a table
# make test    the test suite
# make lint    ruff and mypy
# make test-slow, make test-gpu: what the default suite leaves out
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make bench   what sharing prefixes is worth on this machine
# make bench-analysis, make bench-tracking: what analyses of 500,000 records cost, and a W&B server that fails
.PHONY: demo test test-slow test-gpu bench bench-analysis bench-tracking lint format clean
.DEFAULT_GOAL := demo

# Torch comes first and in exactly the pinned version, so that nothing else pulls in another.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/harness run configs/demo.yaml

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/.installed
	$(BIN)/python tests/bench_sharing.py
	$(BIN)/python tests/bench_generation.py

bench-analysis: $(VENV)/.installed
	$(BIN)/python tests/bench_analysis.py

bench-tracking: $(VENV)/.installed
	$(BIN)/python tests/bench_tracking.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) data_out
