# Each target does its own set-up in .venv. A stamp file marks what is installed, so nothing is installed twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOOR := .venv-floor
# The compiled engine's sources: a change builds it anew. An install without a C compiler works too.
NATIVE := $(wildcard lowmem/runtime/engines/native/src/*)
# Prints the packages of one extra. They are installed by name: `pip install .[extra]` would install lowmem again.
EXTRA := $(BIN)/python -c 'import pathlib, sys, tomllib; \
	table = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8")); \
	print(*table["project"]["optional-dependencies"][sys.argv[1]])'

# A worker that has no tests left takes some of another's: else the last long ones run on one core.
SPREAD := -n auto --dist worksteal

.PHONY: demo tutorial test check lint test-peers test-mpi test-floor sanitize figures clean

demo: $(VENV)/.base
	$(BIN)/lowmem train --data digits --layers 100 --width 128 --activation tanh --init orthogonal \
		--optimizer adam --lr 1e-4 --batch 128 --epochs 20 --budget "25% of activations"

# The tutorial's code, in order; its figures go to the folder tutorial.
tutorial: $(VENV)/.base
	$(BIN)/python -m analysis.tutorial tutorial

# All tests with the engine that is chosen here, then what concerns an engine with NumPy's.
test: lint
	$(BIN)/lowmem doctor | grep '^engine:'
	$(BIN)/pytest $(SPREAD)
	LOWMEM_ENGINE=numpy $(BIN)/pytest $(SPREAD) $(addprefix tests/test_,$(addsuffix .py,$(OF_AN_ENGINE)))

OF_AN_ENGINE := backprop deep_layers memory clipping profiling trainer saved_run blas_threads

# Lint, types, and the tests whose names match what has changed since the last commit.
check: lint
	$(BIN)/pytest $(SPREAD) $$($(BIN)/python -m scripts.changed_tests)

lint: $(VENV)/.test
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-peers: $(VENV)/.peers
	$(BIN)/pytest $(SPREAD) tests/peers

# Several ranks on this machine, with the MPI of the extra: a minute on two cores.
test-mpi: $(VENV)/.mpi
	$(BIN)/pytest tests/mpi

# With the oldest NumPy that pyproject.toml allows, in an environment of its own: what depends on NumPy's innards.
test-floor: $(FLOOR)/.floor
	$(FLOOR)/bin/pytest $(SPREAD) $(addprefix tests/test_,$(addsuffix .py,$(OF_NUMPY)))

OF_NUMPY := losses data memory working_memory native_engine backprop blas_threads activations initialisers

# The compiled engine's tests under the address and undefined-behaviour sanitizers, then, without forks, which it does
# not support, under the thread sanitizer, which does not look into BLAS; the next target builds the engine anew.
sanitize: $(VENV)/.test
	rm -f $(VENV)/.base
	LOWMEM_BUILD=require LOWMEM_CFLAGS="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
		$(BIN)/pip install --quiet --no-deps --editable .
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/pytest -p no:faulthandler tests/test_native_engine.py tests/test_disk_store.py
	LOWMEM_BUILD=require LOWMEM_CFLAGS="-g -O1 -fsanitize=thread" $(BIN)/pip install --quiet --no-deps --editable .
	LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" \
		TSAN_OPTIONS="exitcode=66 suppressions=$(CURDIR)/tests/data/thread_sanitizer.txt" \
		$(BIN)/pytest -p no:faulthandler tests/test_native_engine.py -k "not fork"

# From docs/data/*.json, which profile_memory, compare_peers, benchmark_step, benchmark_planning, compare_sklearn,
# benchmark_torch_chains, measure_ranks, measure_disk, measure_streaming, rank_predictions, busy_machine and
# torch_cuda_check measured.
figures: $(VENV)/.base
	$(BIN)/python -m analysis.schedules
	$(BIN)/python -m analysis.tutorial
	$(BIN)/python -m analysis.compute_versus_memory
	$(BIN)/python -m analysis.memory_versus_depth
	$(BIN)/python -m analysis.promises
	$(BIN)/python -m analysis.peers
	$(BIN)/python -m analysis.step_time
	$(BIN)/python -m analysis.estimators
	$(BIN)/python -m analysis.depth
	$(BIN)/python -m analysis.planning
	$(BIN)/python -m analysis.ranks
	$(BIN)/python -m analysis.disk
	$(BIN)/python -m analysis.predictions
	$(BIN)/python -m analysis.trial
	$(BIN)/python -m analysis.quoted
	$(BIN)/python -m analysis.torch_chains
	$(BIN)/python -m analysis.torch_gpu

clean:
	rm -rf $(VENV) $(FLOOR) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.base: pyproject.toml hatch_build.py $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "lowmem needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet $$($(EXTRA) test)
	touch $@

$(FLOOR)/.floor: pyproject.toml hatch_build.py $(NATIVE)
	$(MAKE) VENV=$(FLOOR) $(FLOOR)/.test
	$(FLOOR)/bin/pip install --quiet "numpy==$$(sed -n 's/.*"numpy>=\([0-9.]*\)".*/\1/p' pyproject.toml).*"
	touch $@

$(VENV)/.mpi: $(VENV)/.test
	$(BIN)/pip install --quiet $$($(EXTRA) mpi)
	touch $@

$(VENV)/.peers: $(VENV)/.test
	$(BIN)/pip install --quiet $$($(EXTRA) peers)
	touch $@
