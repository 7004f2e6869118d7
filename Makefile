# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer, pip and make.
# TORCH names the torch build, in pip's words: make test TORCH="torch==2.13.0"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
# Processes that the tests are spread over, file by file, with a thread each: more threads than cores starve each other.
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What is tested with the lowest versions (constraints-lowest.txt), in an environment of its own; torch stays as it is. Every
# dependency and extra has files here that use it; kills, several processes and browsers say nothing about versions, Ray's apart.
LOWEST := .venv-lowest
LOWEST_EXTRAS := demo,digits,image,paper,figures,peft,ray,search,trl
LOWEST_TESTS ?= tests/cli tests/data tests/dynamics tests/engine tests/tasks \
	tests/methods/select tests/methods/adapt tests/methods/objective/test_dft_and_asft.py \
	tests/models/test_loading.py tests/models/test_saving.py tests/models/test_paper_architectures.py \
	tests/bridges/test_recorder_sft.py tests/bridges/test_checkpoints.py tests/run/test_trainers.py \
	tests/run/test_searching.py tests/run/test_search_trials.py tests/run/test_images.py \
	tests/report/test_static_map.py tests/comparison/test_statistics.py
LOWEST_MARKS := not slow and not kill and not processes and not browser

.PHONY: demo test test-lowest lint types imports check clean

demo: $(STAMP)-demo
	$(BIN)/ftft demo

test: $(STAMP)-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m "$(LOWEST_MARKS)" $(LOWEST_TESTS)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest tests/comparison/test_compare_command.py -k local_ray
	$(LOWEST)/bin/ftft run --help | grep -q "Usage: ftft run"

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

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --only-binary=:all: -c constraints-lowest.txt "$(TORCH)" \
		pytest pytest-xdist hypothesis jsonschema statsmodels -e ".[$(LOWEST_EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache
