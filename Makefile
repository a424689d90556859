# Everything runs from .venv, which `setup` makes; PYTHON names the interpreter to make it with (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements-installed
SOURCES := $(wildcard *.py api commands console foundation ml notifications)
PYTEST_ARGS ?= -n auto --dist loadfile
ARGS ?=
DATA ?= ../shared/data/telemetry

.DEFAULT_GOAL := help
.PHONY: help setup run demo test coverage lint bench ml-eval

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and nothing else

run: $(STAMP) ## Run everything: embedded database, web on port 5002, worker (Ctrl-C stops it)
	@exec $(BIN)/python -m commands run --end-with-parent

demo: $(STAMP) ## Play a small plant and show the pages it causes (ARGS="--csv FILE --high X --low Y" for your own readings)
	@exec $(BIN)/python app_advanced.py demo $(ARGS)

test: $(STAMP) ## Run all tests
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS)

coverage: $(STAMP) ## Run all tests and show which branches they do not reach
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term-missing:skip-covered

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(SOURCES)

bench: $(STAMP) ## Measure the speed of the alert path
	@exec $(BIN)/python -m benchmarks $(ARGS)

ml-eval: $(STAMP) ## Measure the anomaly detector on labelled series (DATA=FOLDER with manifest.json, ARGS=--stress)
	@exec $(BIN)/python -m benchmarks.ml_evaluation --data $(DATA) $(ARGS)

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
