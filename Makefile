# make demo    the whole of it in miniature, with nothing to download but the packages (corruptions included); with
#              ENGINES=1 detection and segmentation also by OpenMMLab's engines, and by detectron2 where it can be imported
# make test    install for development, then style, types and every test
# make lint    style and types only
# make bench   the measurements of benchmarks/; REFERENCE, DETECTRON2 and MMSEG are paths of checkouts of
#              facebookresearch/mae, of detectron2, and of a folder with mmseg, mmengine and mmcv; BACKBONE is the
#              folder of a pretraining run; what compares with what is not given is left out, and named
# make clean   remove the environment and what tools leave behind (never data/ or runs/)
#
# PYTHON chooses the interpreter of .venv (3.11 or newer), WORKERS the number of test processes.

PYTHON ?= python3
WORKERS ?= 2
ENGINES ?=
REFERENCE ?=
DETECTRON2 ?=
MMSEG ?=
BACKBONE ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed$(if $(ENGINES),-engines)
	$(BIN)/mae-bench demo$(if $(ENGINES), --engines)

# One thread a process: small tensors gain nothing from more, and the processes share the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	@for script in benchmarks/*.py; do \
	    case $$script in \
	        */mae_step.py) set -- REFERENCE "$(REFERENCE)" --reference ;; \
	        */detector_step.py|*/vitdet_backbone.py) set -- DETECTRON2 "$(DETECTRON2)" --reference ;; \
	        */segmenter_step.py) set -- MMSEG "$(MMSEG)" --reference ;; \
	        */engine_agreement.py) set -- BACKBONE "$(BACKBONE)" --backbone ;; \
	        *) set -- ;; \
	    esac; \
	    if [ $$# -eq 3 ] && [ ! -d "$$2" ]; then echo "== $$script: left out, $$1=PATH is not given"; continue; fi; \
	    if [ $$# -eq 3 ]; then set -- "$$3" "$$2"; fi; \
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
	$(BIN)/python -m pip install --quiet --editable ".[corruptions]"
	touch $@

$(VENV)/.installed-engines: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[corruptions,openmmlab]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed $(VENV)/.installed-engines
