# Everything runs inside .venv, which .ci/install makes when it is missing or stale.
# Options: PYTHON=/path/to/python3.12 (interpreter), TORCH_INDEX=URL (index for torch alone).

PYTHON ?=
TORCH_INDEX ?=
export PYTHON TORCH_INDEX
# Modules from outside would shadow what is installed in .venv.
unexport PYTHONHOME PYTHONPATH

BIN := .venv/bin
FAST := not slow and not deployment and not browser and not ray and not spark or smoke

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-all lint format clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo
	@echo "Options:  PYTHON=/path/to/python3 selects the interpreter (3.11 or newer),"
	@echo "          TORCH_INDEX=URL installs torch from that package index."

install: ## Make or refresh .venv (the targets below do it by themselves)
	@.ci/install

demo: install ## Train at several epsilons on built-in data; writes a report under runs/
	@$(BIN)/dp-risk frontier +experiment=demo

test: lint ## Lint, then the fast tests
	$(BIN)/python -m pytest -m "$(FAST)"

test-all: lint ## Every test, and again with sites that forget everything between messages
	$(BIN)/python -m pip install --quiet -e '.[dev,ray]' -c constraints.txt
	$(BIN)/python -m pytest
	DP_RISK_AMNESIA=1 $(BIN)/python -m pytest -m "not deployment and not ray"

lint: install ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and build output; runs/ and its ledgers stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
