# Every target first installs what is missing.
PYTHON ?= python3
RECIPE ?= quickstart
ARGS ?=
BIN := .venv/bin
STAMP := .venv/installed
DEV_STAMP := .venv/installed-dev
QUICKSTART := $(if $(filter quickstart_timeline,$(RECIPE)),quickstart_recordings,quickstart)
DATA := $(if $(filter quickstart%,$(RECIPE)),data/$(QUICKSTART)/manifest.csv)

.PHONY: help setup setup-dev finetune quick test format lint check coverage bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP) ## install into .venv, once

setup-dev: $(DEV_STAMP) ## the same with the tools that tests and lint need

finetune: $(STAMP) $(DATA) ## train RECIPE (default: quickstart) with ARGS="train.batch_size=16", write a report
	@$(BIN)/finetune train $(RECIPE) $(ARGS)

quick: $(DEV_STAMP) ## run the fast tests, in about two minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --durations 10 --durations-min 1

test: $(DEV_STAMP) ## run all tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: $(DEV_STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV_STAMP) ## check formatting, ruff's rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test ## run lint and all tests; must pass before a commit

coverage: $(DEV_STAMP) ## list files with lines that the fast tests do not reach; fail below a floor
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow" --cov --cov-report term:skip-covered --cov-fail-under 90

bench: $(DEV_STAMP) ## run the benchmarks; each prints a table of ratios
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove installed and cached files, but not runs/ and data/
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP) $(DEV_STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing into .venv: about two minutes and 6 GB, once"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$(if $(findstring dev,$@),[dev])"
	@touch $(STAMP) $@

data/quickstart/manifest.csv: | $(STAMP)
	$(BIN)/finetune data quickstart

data/quickstart_recordings/manifest.csv: | $(STAMP)
	$(BIN)/finetune data quickstart --recordings
