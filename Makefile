.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed

help:  ## Show what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(SETUP)  ## Set up .venv with the versions that were tested

$(SETUP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

lint: $(SETUP)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)  ## Check types
	$(BIN)/mypy

test: lint types  ## Set up, then check style and types and run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --quiet

clean:  ## Remove what was set up
	rm -rf .venv build dist *.egg-info

.PHONY: help install lint types test clean
