# make demo    the embedded model and data, from nothing to a table
# make test    the test suite, in two processes; WORKERS=any number
# make lint    ruff and mypy
# make test-slow, make test-gpu: what the default suite leaves out; make test-jobs: of it, runs as Ray jobs
# make test-transformers   the engine's tests with the oldest and newest transformers that pyproject.toml allows
# make chaos   runs while nodes, replicas and drivers are killed; ROUNDS=20, SEED=any number
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make bench      this project beside the alternatives on this machine's CPU; BENCH="--write" updates docs/performance.md
# make bench-gpu  the same on a GPU, with the Python that PYTHON names as it is: it needs torch, transformers,
#                 accelerate, pandas, pyarrow, pydantic and tenacity;
#                 under 10 minutes, BENCH="--models 1.3b,5.8b --workloads a,b,c,d,d-drawn,e" takes longer
# make bench-dispatch, make bench-scale   what handing out units, and a run of millions of prompts, take of the driver
# make bench-rendering   prompts rendered and tokenised per second, by style of tokenizer; MODEL=FOLDER for one more
# make bench-analysis, make bench-tracking   what analyses of 500,000 records cost, and a W&B server that fails
# make docs    the pages as a site in data_out/site, every link and anchor checked
.PHONY: demo test test-slow test-gpu test-jobs test-transformers chaos lint format clean docs
# make gpu-check  everything that only a GPU can show, in at most 8 minutes, with the Python that PYTHON names as it is;
#                 GPU_CHECK=--write writes the figures into docs/performance.md
.PHONY: bench bench-rendering gpu-check bench-gpu bench-dispatch bench-scale bench-analysis bench-tracking
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
	$(BIN)/python -m pytest -n $(or $(WORKERS),2) --dist loadgroup

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

test-jobs: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow tests/distributed/test_jobs.py

test-transformers: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow tests/test_transformers_internals.py

test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu

chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED))

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m tests.bench $(BENCH)

bench-gpu:
	$(PYTHON) -m tests.bench --device cuda $(BENCH)

gpu-check:
	$(PYTHON) -m tests.gpu $(GPU_CHECK)

bench-dispatch: $(VENV)/.installed
	$(BIN)/python tests/bench_dispatch.py

bench-scale: $(VENV)/.installed
	$(BIN)/python tests/bench_scale.py

bench-rendering: $(VENV)/.installed
	$(BIN)/python tests/bench_rendering.py $(if $(MODEL),--model $(MODEL))

bench-analysis: $(VENV)/.installed
	$(BIN)/python tests/bench_analysis.py

bench-tracking: $(VENV)/.installed
	$(BIN)/python tests/bench_tracking.py

PAGES = README.md README.ko.md CHANGELOG.md CONTRIBUTING.md LICENSE $(wildcard docs/*.md docs/*/* configs/*.md \
	clusters/*.md examples/*.py examples/*.ipynb harness/reporting/tracking/presets/*.json data_in/*/README.md \
	data_in/models/*/README.md)

docs: $(VENV)/.installed
	rm -rf data_out/site_source && mkdir -p data_out/site_source
	cp --parents $(PAGES) data_out/site_source
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open data_out/site/index.html"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) data_out
