# Everything a person or CI runs. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install run chat serve test check policy package bench planner-accuracy planner-duel torture docs clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RECIPE ?= recipes/python-stdlib.yaml
PIP_FLAGS ?=
HELPERS := accuracy_plots planner_scores planner_duel rivals rival_llm_analysis rival_memory
# whole trainings, minutes each: run by their own names, not by `make bench`
LONG := main_job teaching
BENCHMARKS ?= $(filter-out benchmarks/fit_% $(HELPERS:%=benchmarks/%.py) $(LONG:%=benchmarks/%.py),$(wildcard benchmarks/*.py))
# a process of tests that died ends the run: xdist would wait for its files for ever
PYTEST_FLAGS ?= -n 2 --dist loadfile --max-worker-restart 0
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.stamp-train-openvino
CHAT_STAMP := $(VENV)/.stamp-train-openvino-smollm-intents
DEV_STAMP := $(VENV)/.stamp-train-openvino-dev

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	  while IFS=$$'\t' read -r name text; do printf '  make %-17s %s\n' "$$name" "$$text"; done
	@echo "variables: PYTHON VENV RECIPE BENCHMARKS PIP_FLAGS PYTEST_FLAGS"

# ---- set-up: one stamp per set of extras, so that nothing is installed twice
$(RUN_STAMP): pyproject.toml constraints.txt
	@PIP_FLAGS="$(PIP_FLAGS)" "$(PYTHON)" .ci/install.py $(VENV) train,openvino

$(DEV_STAMP): pyproject.toml constraints.txt
	@PIP_FLAGS="$(PIP_FLAGS)" "$(PYTHON)" .ci/install.py $(VENV) train,openvino,dev
	@touch $(RUN_STAMP)

$(CHAT_STAMP): pyproject.toml constraints.txt
	@PIP_FLAGS="$(PIP_FLAGS)" "$(PYTHON)" .ci/install.py $(VENV) train,openvino,smollm,intents

install: $(DEV_STAMP) ## set up .venv with everything development needs

# ---- the two commands
run: $(RUN_STAMP) ## plan, prepare, train, compress, evaluate and serve RECIPE; prints the report
	@$(BIN)/whorl up $(RECIPE)

chat: $(CHAT_STAMP) ## teach SmolLM2-135M one job, compress and measure it, and open the page
	@$(BIN)/whorl up --serve recipes/intents.yaml

test: $(DEV_STAMP) check ## lint, types and all tests
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

# ---- parts
serve: $(RUN_STAMP) ## the same as run, then stays up and prints the page's address
	@$(BIN)/whorl up --serve $(RECIPE)

check: $(DEV_STAMP) ## format, lint and types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

policy: $(DEV_STAMP) ## the rules of the house: imports, budgets, docs
	@$(BIN)/python -m pytest tests/policy

package: $(DEV_STAMP) ## build the wheel, install it into a clean environment, run it
	@$(BIN)/python -m pytest tests/packaging

bench: $(DEV_STAMP) ## every benchmark, one table each
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script"; done

planner-accuracy: $(DEV_STAMP) ## score the planner on published rows; writes docs/planner-accuracy.md
	@$(BIN)/python benchmarks/planner_accuracy.py

planner-duel: $(DEV_STAMP) ## other planners beside whorl on the same rows; writes docs/planner-duel.md
	@$(BIN)/python -m pip install -q --no-deps --upgrade --target build/rivals -r benchmarks/rivals.txt
	@$(BIN)/python benchmarks/planner_duel.py

torture: $(DEV_STAMP) ## attack a server for an hour or two; writes docs/reliability.md
	@$(BIN)/python -m tests.torture.report

docs: $(DEV_STAMP) ## write the generated pages again and check the rest
	@$(BIN)/python docs/generate.py && $(BIN)/python -m pytest tests/policy -k docs

clean: ## remove the environment, caches and builds; keeps runs/
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
