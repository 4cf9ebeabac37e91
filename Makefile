# make self-play   sets everything up, then runs a self-play session on configs/quickstart.yaml
# make test        sets everything up, then runs every check and test
CONFIG ?= configs/quickstart.yaml
RUN ?= runs/$(basename $(notdir $(CONFIG)))
SET ?=
BIN := .venv/bin

.PHONY: help setup browser self-play test lint unit e2e clean

help:
	@sed -n 's/^# //p' Makefile

setup:
	@bash scripts/setup.sh

browser:
	@bash scripts/setup.sh browser

self-play: setup
	@$(BIN)/autotelic self-play $(CONFIG) $(SET) --run $(RUN)

test: lint unit e2e

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest -q -n 2 -m "not e2e" --ignore tests/e2e --ignore tests/training --durations=10

e2e: setup browser
	$(BIN)/pytest -q -n 2 -m e2e --durations=10

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
