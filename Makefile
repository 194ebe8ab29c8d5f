# Each target does its own set-up in .venv. A stamp file marks what is installed, so nothing is installed twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Prints the packages of one extra. They are installed by name: `pip install .[extra]` would install lowmem again.
EXTRA := $(BIN)/python -c 'import pathlib, sys, tomllib; \
	table = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8")); \
	print(*table["project"]["optional-dependencies"][sys.argv[1]])'

.PHONY: demo test lint test-peers figures clean

demo: $(VENV)/.base
	$(BIN)/lowmem train --data digits --layers 100 --width 128 --activation tanh --init orthogonal \
		--optimizer adam --lr 1e-4 --batch 128 --epochs 20 --budget "25% of activations"

test: lint
	$(BIN)/pytest -n auto

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-peers: $(VENV)/.peers
	$(BIN)/pytest tests/peers

# From docs/data/*.json, which profile_memory, compare_peers, benchmark_step, benchmark_planning and compare_sklearn in
# scripts/ measured.
figures: $(VENV)/.base
	$(BIN)/python -m analysis.compute_versus_memory
	$(BIN)/python -m analysis.memory_versus_depth
	$(BIN)/python -m analysis.promises
	$(BIN)/python -m analysis.peers
	$(BIN)/python -m analysis.step_time
	$(BIN)/python -m analysis.estimators
	$(BIN)/python -m analysis.depth
	$(BIN)/python -m analysis.planning

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "lowmem needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet $$($(EXTRA) test)
	touch $@

$(VENV)/.peers: $(VENV)/.test
	$(BIN)/pip install --quiet $$($(EXTRA) peers)
	touch $@
