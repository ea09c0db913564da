.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
TESTED := .venv/.tested
PEERS := .venv-peers/.installed

help:  ## Show what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(SETUP)  ## Set up .venv with the versions that were tested

$(SETUP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(TESTED): $(SETUP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(SETUP)  ## Six optimizers over learning rate and weight decay, to figures and a report
	$(BIN)/curv sweep --optimizers sgd,msgd,adam,sam,sa-sgd,sa-sam --lr 0.01,0.1,1 --weight-decay 0,3e-3 --seeds 3 --model cnn:width=8 --epochs 10 --trace-rtol 0.05 --max-passes 200 --jobs 2 --out demo/runs
	$(BIN)/curv heatmap demo/runs --metric accuracy --out demo/accuracy.png
	$(BIN)/curv heatmap demo/runs --metric trace --out demo/trace.png
	$(BIN)/curv heatmap demo/runs --metric eigmax --out demo/eigmax.png
	$(BIN)/curv compare demo/runs --metric accuracy --metric trace --metric eigmax --out demo/comparison.png
	$(BIN)/curv report demo/runs --made-by 'make demo' --out demo/report.html

lint: $(TESTED)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TESTED)  ## Check types
	$(BIN)/mypy

test: lint types  ## Set up, then check style and types and run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --quiet

soak: $(TESTED)  ## Kill sweeps and trainings at twenty moments each: minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -m soak

peers: $(PEERS)  ## Set up .venv-peers with the packages that the benchmark compares with

$(PEERS): setup.cfg pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --constraint constraints.txt --requirement benchmarks/peers.txt --editable .
	touch $@

clean:  ## Remove what was set up
	rm -rf .venv .venv-peers build demo dist *.egg-info

.PHONY: help install demo peers lint types test soak clean
