# `make` alone lists the targets. Needs Python 3.11 to 3.13 with venv, and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Two processes; the slow tests start enough of their own.
FAST := -n 2 -m "not slow and not gpu and not internet"

# For `make run`: a preset, and more options of `fairfal run`.
CONFIG ?=
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run check test config format clean constraints style types bench-strategies mutants soak

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Make .venv with all that development needs
	@:

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "FairFAL needs Python 3.11, 3.12 or 3.13; choose one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	@touch $@

run: setup  ## Simulate a campaign: make run CONFIG=configs/fmnist-quick.toml ARGS='-c seed=1'
	$(BIN)/fairfal run . $(if $(CONFIG),--run-config $(CONFIG)) $(ARGS)

check: style types  ## Format, lint, types and the fast tests
	$(BIN)/python -m pytest $(FAST)

test: style types  ## Everything that CI runs
	$(BIN)/python -m pytest $(FAST)
	$(BIN)/python -m pytest -m "(slow or gpu) and not internet"

mutants: setup  ## Change the code in one place at a time; a fast test must notice: make mutants ARGS='--sample 200'
	$(BIN)/python tests/mutants.py $(ARGS)

soak: setup  ## Faults in full count; what docs/reliability.md promises: make soak ARGS='--count 100'
	for script in tests/soak/*.py; do $(BIN)/python $$script $(ARGS) || exit 1; done

bench-strategies: setup  ## One small campaign per query strategy: make bench-strategies ARGS='--data fashion-mnist'
	$(BIN)/python benchmarks/strategies.py $(ARGS)

style: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

config: setup  ## Write what follows from options and tables: keys, pyproject's defaults, docs
	$(BIN)/python -m fairfal_flwr.generate

format: setup  ## Rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: setup  ## Move constraints.txt to the newest versions
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --upgrade \
	  --no-annotate --custom-compile-command "make constraints" --quiet \
	  --output-file constraints.txt

clean:  ## Remove what the other targets made, .venv included
	rm -rf $(VENV) build dist *.fab *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
