# make tune   install what is missing, then tune the embedded draft head
# make test   install what is missing, then run every test
# make lint   check style and types

PYTHON ?= python3
BIN := .venv/bin
PLUGIN := $(shell find vllm-plugin -name '*.py' -o -name 'pyproject.toml')

.PHONY: tune test lint install

tune: install
	$(BIN)/snakemake $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy

install: .venv/installed

.venv/installed: envs/laptop.lock $(PLUGIN)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	    echo 'error: PYTHON = $(PYTHON) is not Python 3.11, for which envs/laptop.lock is made; run make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/laptop.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin
	@touch $@
