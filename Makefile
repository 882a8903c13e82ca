# What a newcomer types. Every target does its own set-up; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := runnerd tests bench

# The first Python from 3.11 on; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$name; break; }; done)

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help venv setup demo check test bench soak clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## the virtual environment in .venv, with every dependency pinned

# pip is asked twice: a registry that hiccups once should not cost the newcomer the afternoon.
$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: needs Python 3.11 or later: install it, or name one with PYTHON=…" >&2; exit 2; }
	@if ! test -x $(BIN)/python || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "creating $(VENV) with $(PYTHON)"; \
		"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || $(install-venv); \
		"$(PYTHON)" -m venv --clear $(VENV); \
	fi
	@echo "installing the dependencies into $(VENV)"
	@$(PIP) install --quiet --editable '.[dev]' || { sleep 3; $(PIP) install --quiet --editable '.[dev]'; }
	@touch $@

# Debian keeps venv in a package of its own.
define install-venv
{ command='apt-get install --no-install-recommends -y python3-venv'; \
  if ! command -v apt-get >/dev/null; then echo "make: $(PYTHON) lacks the venv module: install it" >&2; exit 2; \
  elif test "$$(id -u)" = 0; then apt-get update -q && $$command; \
  elif sudo -n true 2>/dev/null || { test -t 0 && command -v sudo >/dev/null; }; then sudo apt-get update -q && sudo $$command; \
  else echo "make: $(PYTHON) lacks the venv module; install it with: sudo $$command" >&2; exit 2; fi; }
endef

setup: venv ## what machines need from the distribution (QEMU and friends), through apt-get where it may
	@$(BIN)/python -m runnerd setup

demo: setup ## a signed webhook runs a sample workflow in real microVMs, before your eyes
	@$(BIN)/python -m runnerd demo --state .state/demo --cache .state

check: venv ## style, types and layout
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/pytest -q tests/check

test: setup check ## everything: set-up, check and every test, real microVMs included
	@# Hundreds of processes import it: each would compile it anew where Python may write no bytecode.
	@$(BIN)/python -m compileall -q runnerd
	$(BIN)/pytest -q --durations=15 --ignore=tests/check

bench: setup ## measure what the README quotes; writes bench/results.json
	$(BIN)/python -m bench

soak: setup ## make, use and end 1,000 machines of each kind and count what is left; SOAK="--cycles 30" for fewer
	$(BIN)/python -m bench soak $(SOAK)

clean: ## remove what the targets above made in this folder
	rm -rf $(VENV) .state build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage bench/results.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
