# Needs python3 (3.11 or newer; PYTHON=... names another one), pip and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
WORKERS ?= 2
# A file's tests stay together, as they share what was trained for them.
SPREAD := --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint format docs tutorials results mutation package torch-versions

help:
	@echo "make setup   create $(VENV) and install everything into it"
	@echo "make demo    train on handwritten digits, write pictures and a table to outputs/digits"
	@echo "make test    run the tests            make slow    run the slow ones"
	@echo "make lint    check style and types    make format  repair the style"
	@echo "make docs    build the documentation: docs/_build/html/index.html"
	@echo "make tutorials run the notebooks of docs/tutorials and store what they show"
	@echo "make results run the benchmarks of up to 75 minutes again, say what the others take, write tables and pictures anew"
	@echo "make mutation  put mistakes into a copy of the core, count those that the tests notice (half an hour or more)"
	@echo "make package build wheel and sdist, try both out in an empty environment"
	@echo "make torch-versions  run the tests of the core with the oldest and the newest PyTorch"

setup: $(STAMP)

define IS_NEW_ENOUGH
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vadd needs Python 3.11 or newer, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 || true). Name a newer one: make $(or $(MAKECMDGOALS),setup)" \
	    "PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
endef

$(STAMP): pyproject.toml constraints.txt
	$(IS_NEW_ENOUGH)
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev,examples]" -c constraints.txt
	@touch $@

demo: setup
	$(PY) examples/digits_svi.py

test: setup
	$(PY) -m pytest -n $(WORKERS) $(SPREAD)

slow: setup
	$(PY) -m pytest -n $(WORKERS) $(SPREAD) -m slow

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup
	$(PY) -m sphinx -n -W --keep-going docs docs/_build/html

tutorials: setup
	$(PY) docs/tutorials/execute.py

results: setup
	$(PY) benchmarks/repeat.py

mutation: setup
	$(PY) benchmarks/mutation.py

package:
	$(IS_NEW_ENOUGH)
	$(PYTHON) tests/release/packages.py $(if $(ENVIRONMENT),--environment $(ENVIRONMENT))

torch-versions: setup
	$(PY) tests/release/torch_versions.py --workers $(WORKERS)
