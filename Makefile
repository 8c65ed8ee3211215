# make demo    the whole of it in miniature, with nothing to download but the packages
# make test    install for development, then style, types and every test
# make lint    style and types only
# make bench   the measurements of benchmarks/; REFERENCE=PATH is a checkout of facebookresearch/mae
# make clean   remove the environment and what tools leave behind (never data/ or runs/)
#
# PYTHON chooses the interpreter of .venv (3.11 or newer), WORKERS the number of test processes.

PYTHON ?= python3
WORKERS ?= 2
REFERENCE ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed
	$(BIN)/mae-bench demo

# One thread a process: small tensors gain nothing from more, and the processes share the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	@test -d "$(REFERENCE)" || { echo "make bench REFERENCE=PATH, with PATH a checkout of facebookresearch/mae"; exit 2; }
	@for script in benchmarks/*.py; do \
	    case $$script in */mae_step.py) set -- --reference "$(REFERENCE)" ;; *) set -- ;; esac; \
	    echo "== $$script"; $(BIN)/python "$$script" "$$@" || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed in place, so that what runs is always what stands here; the stamps keep a second
# call from installing again until the requirements change.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed
