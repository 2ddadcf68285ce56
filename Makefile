# Two commands: `make demo` sets up and raises the herd, `make test` sets up and tests. Everything stays inside .venv, runs/ and store/.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

QUICK  := not slow and not gpu
BENCH  ?= .bench-env

.PHONY: demo test lint bench bench-env setup setup-test clean

demo: setup
	$(BIN)/puna up recipes/cria.yaml

test: setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n logical --maxprocesses 8 --dist loadfile -m '$(QUICK) and not cores'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m '$(QUICK) and cores'

lint: setup-test
	$(BIN)/ruff check puna tests bench
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: setup-test
	for bench in bench/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$bench --quick || exit 1; done

# the peers in environments of their own: datatrove needs an old trafilatura, and pip older than 24 cannot resolve it
bench-env:
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=24"
	$(BENCH)/bin/python -m pip install --quiet "datatrove[io,processing,cli]==0.10.1" "trafilatura<1.12" lxml_html_clean spacy
	$(PYTHON) -m venv $(BENCH)/extraction
	$(BENCH)/extraction/bin/python -m pip install --quiet --disable-pip-version-check "pip>=24"
	$(BENCH)/extraction/bin/python -m pip install --quiet trafilatura==2.3.1 readability-lxml lxml_html_clean
	$(BENCH)/bin/python -m pip install --quiet --no-deps --target $(BENCH)/litgpt litgpt==0.5.13 lightning lightning-utilities \
	  pytorch-lightning torchmetrics jsonargparse

setup: $(VENV)/.installed
setup-test: $(VENV)/.installed-test

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "puna needs Python 3.11 or newer: make demo PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)" -c constraints.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) -e . -c constraints.txt
	$(BIN)/python -m puna.commands.kernels
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]' -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH) runs store
