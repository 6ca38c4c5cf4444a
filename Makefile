# make finetune and make test need nothing done before: they set up what is missing.
PYTHON ?= python3
RECIPE ?= quickstart
ARGS ?=
BIN := .venv/bin
STAMP := .venv/installed
DATA := $(if $(filter quickstart%,$(RECIPE)),data/quickstart/manifest.csv)

.PHONY: help setup finetune quick test format lint check coverage bench clean

help: ## what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP) ## install into .venv, once

finetune: $(STAMP) $(DATA) ## train by RECIPE (quickstart), settings in ARGS="train.batch_size=16", and write a report
	@$(BIN)/finetune train $(RECIPE) $(ARGS)

quick: $(STAMP) ## run the tests that take at most about a second each: under two minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --durations 10 --durations-min 1

test: $(STAMP) ## run all tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: $(STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP) ## formatting, rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## all that has to pass before a commit

coverage: $(STAMP) ## run the quick tests and print which lines they do not reach; fails under the floor
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --cov --cov-report term:skip-covered --cov-fail-under 80

bench: $(STAMP) ## benchmarks, each a table of ratios
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what was made, but not runs/ and data/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing into .venv: about two minutes and 6 GB, once"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

data/quickstart/manifest.csv: | $(STAMP)
	$(BIN)/finetune data quickstart
