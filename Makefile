# `make` alone lists the targets. VENV and PYTHON can be overridden: make test VENV=/path/to/venv PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
# `make test-oldest` uses Python 3.10, the oldest supported version, if it is installed.
PYTHON_OLDEST ?= $(if $(shell python3.10 --version 2>/dev/null),python3.10,$(PYTHON))
# pip constraints file; by default there is none, and pip installs the newest versions.
CONSTRAINTS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.vjepa_hf-installed
SOURCES := src tests examples benchmarks studies docs
# ARGS is passed on: `make pretrain ARGS="--max_steps 100"` to the script, `make test ARGS="-k masking"` to pytest.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup pretrain test test-oldest check style docs dist bench bench-more

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create the virtual environment and install the package with its development tools

# Reinstall only when the dependencies change; the package itself is editable.
$(READY): setup.cfg pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable ".[dev]"
	@touch $@

pretrain: $(READY)  ## Pretrain a tiny V-JEPA model on a generated toy set (minutes on two CPU cores)
	$(BIN)/accelerate launch examples/pretrain.py $(ARGS)

test: $(READY)  ## Run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadgroup $(ARGS)

test-oldest:  ## Run the test suite with the oldest supported versions, in a separate environment
	$(MAKE) test VENV=.venv-oldest PYTHON=$(PYTHON_OLDEST) CONSTRAINTS=constraints-oldest.txt

check: $(READY)  ## Check lint, formatting, types, layering and docs; change nothing
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/mypy src
	$(BIN)/python -m pytest -q tests/repository/test_layering.py tests/repository/test_invariants.py \
		tests/repository/test_pages.py

style: $(READY)  ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

docs: $(READY)  ## Build the documentation site in site/; warnings are errors
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

dist: $(READY)  ## Build the source distribution and the wheel in dist/, and check them
	$(BIN)/python -m pip install --quiet --editable ".[dist]"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# A page of results: $(call page,SCRIPT,COMMAND,OPTIONS). It is refused while code is not committed.
page = $(BIN)/python benchmarks/$(1).py $(2) $(3) --output benchmarks/results/$(1)$(addprefix _,$(2)).md

bench: $(READY)  ## Write the most important benchmark pages; REFERENCE=path/to/jepa compares with Meta's code
	$(if $(REFERENCE),$(call page,step,,--reference $(REFERENCE)))
	$(if $(REFERENCE),$(call page,parity,live,--reference $(REFERENCE)))
	$(call page,learning,probes)
	$(call page,collapse,runs,--plot docs/images/health.png)

# VIDEOS=path of short videos, LONG=path of a long one, ODD=path of files to damage, FIXTURES=path of recorded numbers.
bench-more: $(READY)  ## Write the other benchmark pages (hours); the Makefile names the videos that some of them need
	$(call page,learning,finetuning)
	$(call page,learning,detection)
	$(call page,learning,online)
	$(call page,learning,protocols)
	$(call page,collapse,health_cost)
	$(call page,inference,clips)
	$(call page,inference,rotation)
	$(call page,inference,surprise)
	$(call page,parity,full_size)
	$(call page,data,lists)
	$(call page,data,masks,$(addprefix --reference ,$(REFERENCE)))
	$(call page,reliability,training)
	$(call page,reliability,kills)
	$(call page,distance,cost)
	$(call page,search,copies)
	$(call page,search,memory)
	$(call page,look,shapes)
	$(if $(VIDEOS),$(call page,data,loader,--videos $(VIDEOS)))
	$(if $(VIDEOS),$(call page,reliability,reading,--videos $(VIDEOS)))
	$(if $(LONG),$(call page,data,decode,--videos $(VIDEOS) --long $(LONG)))
	$(if $(LONG),$(call page,inference,videos,--video $(LONG)))
	$(if $(ODD),$(call page,reliability,damaged,--videos $(ODD)))
	$(if $(FIXTURES),$(BIN)/python benchmarks/parity.py recorded --fixtures $(FIXTURES) --write)
