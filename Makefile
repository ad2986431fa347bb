# `make compare` and `make test` set up everything they need; see README.md.
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?=
# `cpu`, or the address of a package index to take torch from.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
PORT ?=
ARGS ?=
# System tests wait more than they compute.
SYSTEM_PROCESSES ?= 3
# One thread a process: parallelism comes from processes, and two OpenMP threads on a busy machine can stall.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
# Some containers ask for no bytecode; the tests start some hundred processes that would all compile the same files.
unexport PYTHONDONTWRITEBYTECODE

# A checkout that was moved is set up anew: programs in its environment name the old place.
ifneq ($(filter-out $(CURDIR),$(shell cat $(VENV)/.checkout 2>/dev/null)),)
$(VENV)/.runtime $(VENV)/.dev: moved
endif

.PHONY: moved help compare up down test test-system test-slow soak bench wheel lint types imports check format lock clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.runtime: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/setup.sh runtime

$(VENV)/.dev: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/setup.sh dev

compare: $(VENV)/.runtime ## compare the losses on the sample, or on DATA=path/or/glob.parquet (more flags: ARGS="...")
	@$(BIN)/jade compare $(if $(DATA),--data '$(DATA)') $(ARGS)

up: $(VENV)/.runtime ## start a local Prefect server, worker and deployments, and print the UI's address (PORT=4200, ARGS=--reset)
	@$(BIN)/jade up $(if $(PORT),--port $(PORT)) $(ARGS)

down: $(VENV)/.runtime ## stop them; runs and history stay
	@$(BIN)/jade down $(ARGS)

test: $(VENV)/.dev ## the quick tests
	@$(BIN)/python -m pytest -n auto $(ARGS)

test-system: $(VENV)/.dev ## the tests that need servers, a browser, sshd or kill processes
	@sh scripts/system_packages.sh
	@$(BIN)/python -m pytest tests/system -m system -n $(SYSTEM_PROCESSES) --dist loadgroup --timeout 900 $(ARGS)

test-slow: $(VENV)/.dev ## system tests of whole flows, minutes each: nights, sweeps on Dask, rented machines
	@sh scripts/system_packages.sh
	@$(BIN)/python -m pytest tests/system -m slow_system -n 2 --dist loadgroup --timeout 1200 $(ARGS)

soak: $(VENV)/.dev ## the long studies
	@$(BIN)/python -m pytest -m soak --timeout 7200 $(ARGS)

bench: $(VENV)/.dev ## every benchmark beside its peer, one table
	@$(BIN)/python -m benchmarks $(ARGS)

wheel: $(VENV)/.dev ## build dist/*.whl, for pipx or uvx
	@$(BIN)/python -m hatchling build -t wheel

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

imports: $(VENV)/.dev
	@$(BIN)/lint-imports

check: $(VENV)/.dev ## lint, types and import contracts
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint types imports

format: $(VENV)/.dev ## rewrite the sources in the house's layout
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: ## refresh constraints.txt from what resolves today
	@PYTHON="$(PYTHON)" sh scripts/lock.sh

clean: ## remove the environment and caches, keep artifacts
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
