# Every target installs what it needs; a fresh machine has only python3 (3.11+), git and make.
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python manage.py

.DEFAULT_GOAL := help
.PHONY: help install demo serve test check format bench clean

help: ## Lists the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Builds .venv from uv.lock

$(VENV)/.installed: pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/python -m uv sync --frozen --quiet --inexact
	@touch $@

demo: install ## Shows a governed agent run end to end; needs no account, key or network
	@$(RUN) demo

serve: install ## Serves Clasper on CLASPER_PORT (8081) with the embedded control plane
	@$(RUN) migrate --verbosity 0
	@test -n "$$CLASPER_WORKSPACE" || test -d workspace || $(RUN) init_workspace workspace
	@$(RUN) serve

test: install ## Runs the tests; on PostgreSQL and Redis when DATABASE_URL and REDIS_URL are set
	@$(BIN)/python -m pytest -n auto

check: install ## What CI runs: format, lint, types, contracts, migrations, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@CLASPER_ENV=test $(RUN) makemigrations --check --dry-run
	@CLASPER_ENV=test $(RUN) spectacular --validate --fail-on-warn --file /dev/null
	@$(MAKE) --no-print-directory test

format: install ## Formats the code and fixes what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## Measures what docs/performance.md claims
	@$(BIN)/python -m benchmarks

clean: ## Removes the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
