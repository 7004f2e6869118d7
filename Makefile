# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer, pip and make.
# TORCH names the torch build, in pip's words: make test TORCH="torch==2.13.0"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
# Processes that the tests are spread over, file by file, with a thread each: more threads than cores starve each other.
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types imports check clean

demo: $(STAMP)-demo
	$(BIN)/ftft demo

test: $(STAMP)-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

check: lint types imports

lint: $(STAMP)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)-test
	$(BIN)/mypy

imports: $(STAMP)-test
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch is named on every pip line, so that no dependency replaces the chosen build by another.
$(STAMP)-demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt "$(TORCH)" -e ".[demo]"
	touch $@

$(STAMP)-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt "$(TORCH)" -e ".[demo,test]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
