# The commands of a checkout. `make` alone lists them.
#
# Only git, make, gcc and Python 3.11 are expected; everything else goes into .venv, from the locks.
#   PYTHON=/path/to/python3.11    the Python that makes .venv
#   LIGHTFM_NO_CFLAGS=1           compile LightFM for any machine of this kind, not for this CPU alone
#   HEADWATER_DATA=/path          where the shared data sets lie

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
HEADWATER_DATA ?= $(abspath ../shared/data)
DATASET ?= movielens
ARGS ?=
SCHEDULES ?= 1000
SEED ?=
SERVE ?=
DATA_PATH ?= $(if $(filter stackexchange,$(DATASET)),$(HEADWATER_DATA)/stackexchange-quantumcomputing)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.headwater-ready
LOCKS := requirements-build.lock requirements.lock
COMPILED := ranking/scorers/_forest.pyx
PIP_INSTALL := $(BIN)/python -m pip install --progress-bar off --no-deps --no-build-isolation
NOTEBOOKS := $(wildcard notebooks/*.py notebooks/*.ipynb)
NOTEBOOKS_OUT := .headwater/notebooks
DEMO_EVENTS := .headwater/demo/movielens/events

# $(call install,what,pip's arguments): one line that counts on a terminal, errors as pip tells them.
define install
	echo "setup: $(1)"; \
	$(PIP_INSTALL) $(2) | { \
		count=0; \
		while read -r line; do \
			case "$$line" in \
				Collecting*) count=$$((count + 1)); step="$$count fetched";; \
				Installing\ collected*) step="$$count fetched, installing";; \
				*) continue;; \
			esac; \
			if [ -t 1 ]; then printf '\r\033[Ksetup: %s' "$$step"; fi; \
		done; \
		if [ -t 1 ]; then printf '\r\033[K'; fi; \
	}
endef

export HEADWATER_DATA
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## The virtual environment with the locked dependencies; every target below does it first

$(READY): $(LOCKS) pyproject.toml $(COMPILED)
	@$(PYTHON) scripts/preflight.py $(VENV)
	@echo "setup: $$($(PYTHON) --version) from $(PYTHON), into $(VENV)"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@$(call install,build tools,--require-hashes -r requirements-build.lock)
	@$(call install,locked packages; a minute or two the first time,--require-hashes -r requirements.lock)
	@$(call install,headwater,--editable .)
	@touch $@
	@echo "setup: done; $(BIN)/headwater --help"

.PHONY: demo
demo: $(READY) ## The whole job on real data (DATASET=movielens|stackexchange, SERVE=1 keeps the service running)
	@$(BIN)/headwater demo --dataset $(DATASET) $(if $(DATA_PATH),--path $(DATA_PATH)) $(if $(SERVE),--serve) $(ARGS)

.PHONY: serve
serve: $(READY) ## Run the service on .headwater/data
	@$(BIN)/headwater serve $(ARGS)

.PHONY: test
test: $(READY) ## The test suite but its slow forms (ARGS="-k name", ARGS="-m slow")
	@$(BIN)/pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

.PHONY: simulate
simulate: $(READY) ## Simulated schedules of a cluster over all cores (SCHEDULES=10000, SEED=n runs one again)
	@$(BIN)/python scripts/simulate.py $(if $(SEED),--seed $(SEED),--schedules $(SCHEDULES)) $(ARGS)

.PHONY: faults
faults: $(READY) ## Real processes killed, cut off, out of disk or knocked at, hundreds of times (tests/faults, what is slow)
	@$(BIN)/pytest tests/faults -m slow $(ARGS)

.PHONY: check
check: check-lint check-format check-types check-imports check-lock ## Lint, format, types, import contracts, locks

.PHONY: check-lint check-format check-types check-imports check-lock
check-lint: $(READY)
	@$(BIN)/ruff check
check-format: $(READY)
	@$(BIN)/ruff format --check
check-types: $(READY)
	@$(BIN)/mypy
check-imports: $(READY)
	@$(BIN)/lint-imports --no-logo
check-lock: $(READY)
	@$(BIN)/python scripts/check_lock.py

.PHONY: format
format: $(READY) ## Format the code, and mend what the linter can
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

.PHONY: bench
bench: $(READY) ## Measure the hot paths against references of the same run (ARGS="rank --json")
	@$(BIN)/headwater bench $(ARGS)

.PHONY: docs
docs: $(READY) ## Write the generated pages of docs/ again
	@$(BIN)/python -m serving.docs docs

.PHONY: notebooks
notebooks: $(READY) ## Execute every notebook into .headwater/notebooks
	@if [ -z "$${HEADWATER_EVENTS:-}" ] && [ ! -d $(DEMO_EVENTS) ]; then \
		echo "notebooks: they read the events that the demo leaves, so it runs first"; \
		$(BIN)/headwater demo; \
	fi
	@$(BIN)/python scripts/run_notebooks.py $(NOTEBOOKS_OUT) $(NOTEBOOKS)
	@echo "notebooks: executed into $(NOTEBOOKS_OUT); to work with them: $(BIN)/jupyter lab notebooks"

.PHONY: lock
lock: ## Resolve the dependencies anew into the locks (needs uv on the PATH)
	@command -v uv >/dev/null || { echo "lock: uv is not installed: pip install uv, or see https://docs.astral.sh/uv" >&2; exit 1; }
	@uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements-build.in --output-file requirements-build.lock
	@uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--constraint requirements-build.lock --all-extras pyproject.toml --output-file requirements.lock

.PHONY: clean
clean: ## Remove caches and build output; .venv and .headwater stay
	@rm -rf build dist *.egg-info $(COMPILED:.pyx=.c) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(NOTEBOOKS_OUT)
	@find feeds ranking training serving tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv and .headwater too: all data of the demo and of `make serve`
	@rm -rf $(VENV) .headwater $(COMPILED:.pyx=.*.so)
