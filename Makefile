# make tune   install what is missing, then tune the embedded draft head
# make test   install what is missing, then run the tests, including tests that train and serve
# make test-long   run the longest tests: whole verdicts, whole runs that are killed
# make test-cluster   run the tests of executor and storage against an emulated cluster and a real S3 server
# make ledger rebuild results/ledger.* from the tree, at any stage of the search
# make report write report.html, one self-contained file, at any stage of the search; ARGS as for make tune
# make status show the state of a running or interrupted search
# make teardown RUN_ID=... delete the objects of a run on the cluster of the profile gb300; ARGS=--dry-run lists them
# make lint   check style, types and the workflow
# make schema rebuild config/schema*.json after a change of scripts/lib/config/

PYTHON ?= python3
# The shell gets these as variables, never as part of a command. Only ARGS is shell words, with quotes, as if typed there.
override PYTHON := $(value PYTHON)
override RUN_ID := $(value RUN_ID)
export PYTHON RUN_ID
BIN := .venv/bin
PLUGINS := vllm-plugin/pyproject.toml $(wildcard vllm-plugin/spec_decode_tune_vllm/*.py) executor/pyproject.toml $(wildcard executor/src/*/*.py)

.PHONY: tune test test-long test-cluster ledger report status teardown lint schema install installed

tune: install
	$(BIN)/snakemake $(ARGS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

test-cluster: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/cluster $(ARGS)

ledger: installed
	@$(BIN)/python scripts/ledger.py

report: installed
	@$(BIN)/python scripts/report.py
	$(BIN)/snakemake draw_report --report report.html $(ARGS)

status: installed
	@$(BIN)/python scripts/status.py

teardown: installed
	@$(BIN)/python scripts/teardown.py $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	@faults=$$($(BIN)/snakemake --lint 2>&1) || { echo "$$faults"; exit 1; }
	$(BIN)/mypy

schema: install
	cd scripts && ../$(BIN)/python -c 'from pathlib import Path; from lib.config import Config, Space, schema; from lib.search.priors import PriorFile; \
	    models = {"schema": Config, "schema-space": Space, "schema-prior-arms": PriorFile}; \
	    [Path(f"../config/{name}.json").write_text(schema(model)) for name, model in models.items()]'

install: .venv/installed

installed:
	@test -e .venv/installed || { echo 'error: nothing is installed yet, or not to the end; run make install'; exit 1; }

.venv/installed: envs/laptop.lock $(PLUGINS)
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	    echo "error: PYTHON = $$PYTHON is not Python 3.11, for which envs/laptop.lock is made; run make PYTHON=/path/to/python3.11"; exit 1; }
	"$$PYTHON" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/laptop.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./vllm-plugin ./executor
	@touch $@
