# make curate: the whole chain on the embedded sample web · make test: the test suite · make ui: server, worker, deployments
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
STAMP := $(VENV)/.installed
# The project's own Prefect database, so that `make ui` shows what `make curate` ran, and nothing of the user's is touched.
export PREFECT_HOME ?= $(abspath $(DATA))/prefect

.PHONY: help install curate ui test lint check clean

help:  ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## The environment (.venv) from pyproject.toml and constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about 3 GB, some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

curate: install  ## Run the flow curate-lvd on the embedded sample web
	@mkdir -p $(PREFECT_HOME)
	$(BIN)/python -m examples.sample_web --data $(DATA)

ui: install  ## Prefect server, worker and deployments; Ctrl-C ends them
	@mkdir -p $(PREFECT_HOME)
	$(BIN)/python -m flows.serve --data $(DATA)

test: install  ## The test suite
	@mkdir -p $(PREFECT_HOME)
	$(BIN)/python -m pytest

lint: install  ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## What CI calls: lint, tests, a build of the package
	$(BIN)/python -m build --outdir $(DATA)/dist .

clean:  ## Remove what runs made (not the environment)
	rm -rf $(DATA)
