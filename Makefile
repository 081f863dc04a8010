# Two commands do everything on a fresh machine: `make figures` and `make test`.
# Needed beforehand: Python >= 3.11, git, make. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# uv reads no pip configuration: hand it pip's folder of wheels, where there is one.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# One thread a process: two notebooks run side by side, and sums keep their order.
export OMP_NUM_THREADS ?= 1
ROUNDS ?= 20

.PHONY: figures verify test fuzz lab lint bench clean help

figures: $(STAMP)  ## make every figure and the ledger in figures/made/quick (embedded data)
	$(BIN)/workbench figures

verify: $(STAMP)  ## the same, and fail where a table differs from the committed one
	$(BIN)/workbench figures --verify

test: $(STAMP)  ## lint, unit tests, notebooks by nbval, figures verified
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest
	$(BIN)/workbench figures --verify

lab: $(STAMP)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

fuzz: $(STAMP)  ## search for counterexamples: property tests on random examples, ROUNDS times over
	for round in $$(seq $(ROUNDS)); do $(BIN)/python -m pytest -m hypothesis --hypothesis-profile=fuzz || exit 1; done

lint: $(STAMP)  ## let ruff fix and format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(STAMP)  ## speed against peers' formulations and physical limits (quiet machine!)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode -c constraints.txt -e '.[test]'
	touch $@

clean:  ## remove the environment and everything that is not committed output
	rm -rf $(VENV) .workbench figures/made export build *.egg-info

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
