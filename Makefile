# The few commands a developer needs. `make test` and `make demo` do all the set-up themselves.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two test processes, one thread each: networks here are small, and threads that wait for each
# other cost more than they bring.
TEST_WORKERS ?= 2

.PHONY: install test lint demo tiny benchmarks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "condkit needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: install
	$(BIN)/condkit demo -o demo-out

# Retrains the built-in base model condkit/tiny from nothing (about an hour on 2 CPU cores).
tiny: install
	$(BIN)/python scripts/train_tiny.py --output condkit/assets/tiny

# make benchmarks PHOTOS=folder WEIGHTS=folder
benchmarks: install
	$(BIN)/python benchmarks/annotators.py $(PHOTOS) --weights-dir $(WEIGHTS)
	$(BIN)/python benchmarks/bench_annotate.py $(PHOTOS) --weights-dir $(WEIGHTS)

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
