# `make` alone prints what there is. VENV and PYTHON can be overridden: make test VENV=/path/to/venv PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
# `make test-oldest` uses Python 3.10, the oldest supported version, if it is installed.
PYTHON_OLDEST ?= $(if $(shell python3.10 --version 2>/dev/null),python3.10,$(PYTHON))
# pip constraints file; by default there is none, and pip installs the newest versions.
CONSTRAINTS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.vjepa_hf-installed
SOURCES := src tests examples benchmarks
# `make pretrain ARGS="--max_steps 100"` hands options on to the script; `make test ARGS="-k masking"` to pytest.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup pretrain test test-oldest check style bench

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make the virtual environment and install the package with its development tools

# Installed again only when the dependencies change: the package itself is editable.
$(READY): setup.cfg pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable ".[dev]"
	@touch $@

pretrain: $(READY)  ## Pretrain a tiny V-JEPA on a toy set it makes itself (minutes on two CPU cores)
	$(BIN)/accelerate launch examples/pretrain.py $(ARGS)

test: $(READY)  ## Run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadgroup $(ARGS)

test-oldest:  ## Run the test suite with the oldest supported versions, in a separate environment
	$(MAKE) test VENV=.venv-oldest PYTHON=$(PYTHON_OLDEST) CONSTRAINTS=constraints-oldest.txt

check: $(READY)  ## Lint, formatting, types, layering and documentation coverage; changes nothing
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/mypy src
	$(BIN)/python -m pytest -q tests/repository/test_layering.py tests/repository/test_invariants.py \
		tests/repository/test_pages.py

style: $(READY)  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

# REFERENCE=path/to/jepa also runs Meta's code beside ours, FIXTURES=path writes the parity table from recorded numbers,
# VIDEOS=path measures the loader on real videos; beside it LONG=path random clips and the features of a long one, and
# ODD=path damaged files. benchmarks/video_tasks.py wants a set with labels and groups and has its own command.
bench: $(READY)  ## Run the benchmarks; results go to benchmarks/results
	$(BIN)/python benchmarks/toy_learning.py --output benchmarks/results/toy_learning.md
	$(BIN)/python benchmarks/finetuning.py --output benchmarks/results/finetuning.md
	$(BIN)/python benchmarks/collapse.py --output benchmarks/results/collapse.md --plot docs/images/health.png
	$(BIN)/python benchmarks/health_cost.py --output benchmarks/results/health_cost.md
	$(BIN)/python benchmarks/soak_pretrain.py --output benchmarks/results/soak_pretrain.md
	$(BIN)/python benchmarks/probe_protocols.py --output benchmarks/results/probe_protocols.md
	$(BIN)/python benchmarks/probe_cost.py --output benchmarks/results/probe_cost.md
	$(BIN)/python benchmarks/action_detection.py --output benchmarks/results/action_detection.md
	$(BIN)/python benchmarks/online_evaluation.py --output benchmarks/results/online_evaluation.md
	$(BIN)/python benchmarks/full_size_checkpoints.py --output benchmarks/results/full_size_checkpoints.md
	$(BIN)/python benchmarks/index_list.py --output benchmarks/results/index_list.md
	$(BIN)/python benchmarks/inference.py --output benchmarks/results/inference.md
	$(BIN)/python benchmarks/scaling.py --output benchmarks/results/scaling.md
	$(if $(VIDEOS),$(BIN)/python benchmarks/loader.py --videos $(VIDEOS) --output benchmarks/results/loader.md)
	$(if $(ODD),$(BIN)/python benchmarks/soak_decode.py --videos $(VIDEOS) --robustness $(ODD) \
		--output benchmarks/results/soak_decode.md)
	$(if $(LONG),$(BIN)/python benchmarks/decode.py --videos $(VIDEOS) --long $(LONG) --output benchmarks/results/decode.md)
	$(if $(LONG),$(BIN)/python benchmarks/dense_features.py --video $(LONG) --output benchmarks/results/dense_features.md)
	$(if $(FIXTURES),$(BIN)/python benchmarks/parity_table.py --fixtures $(FIXTURES) --write)
	$(if $(REFERENCE),$(BIN)/python benchmarks/parity_with_reference.py --reference $(REFERENCE) \
		--output benchmarks/results/parity_with_reference.md)
	$(if $(REFERENCE),$(BIN)/python benchmarks/train_step.py --reference $(REFERENCE) \
		--output benchmarks/results/train_step.md)
	$(if $(REFERENCE),$(BIN)/python benchmarks/mask_sampling.py --reference $(REFERENCE) \
		--output benchmarks/results/mask_sampling.md)
