# README's words: make demo, make test. Everything is installed into .venv by the first of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# pip -c does not reach the environments in which packages are built: both variables are needed.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Threads that wait shall sleep: spinning ones halve the speed of a machine that has other work to do.
export OMP_WAIT_POLICY ?= passive
# Hundreds of processes start in tests and smokes: each of them would compile all modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := check
.PHONY: check demo test test-slow smoke docs lint install clean

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: $(PYTHON) is older than Python 3.11: call make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Installing into $(VENV) (fairseq is compiled: about five minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch -c constraints.txt
	$(BIN)/pip install --quiet --editable '.[fairseq,marian,ct2,hf,recipes,docs,dev]'
	@touch $@

install: $(READY)

# make demo DATA=DIR runs the same on a real corpus: train|val|test*.{src,tgt}[.gz] in DIR. ARGS takes further options.
demo: $(READY)
	$(BIN)/python -m nmtprune.demo $(if $(DATA),--data "$(DATA)") $(ARGS)

# Tests share their tiny models by file: each of two processes takes whole files, on a thread of its own, in the order
# of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m slow

# Every recipe from its first step to its table, on a generated corpus and tiny models; RECIPES names some of them.
smoke: $(READY)
	recipes/smoke.sh $(RECIPES)

# The manual, as HTML in docs/_build; warnings are errors.
docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x -P SCRIPTDIR recipes/*.sh recipes/*/*.sh .ci/run
	$(BIN)/mypy

check: lint
	$(PYTEST)

clean:
	rm -rf $(VENV) build *.egg-info demo-run
