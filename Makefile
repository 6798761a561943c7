# Every target installs what it needs into .venv, with the pins of constraints.txt; a second call finds it there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= a red apple
ARGS ?=

export PROMPT
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help generate test lint format docs notebooks bench study

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

generate: $(VENV)/core ## generate an image: make generate PROMPT="a red apple" [ARGS="--seed 3"]
	@$(BIN)/vqdiff generate "$$PROMPT" $(ARGS)

test: $(VENV)/dev ## run the tests, in two processes (ARGS="-k schedule", ARGS=--slow, ARGS="-n 0" for one)
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/dev ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

format: $(VENV)/dev ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/docs ## build the pages into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

notebooks: export SHARE ?= 0.05
notebooks: $(VENV)/dev ## run the notebooks; SHARE is the part of the training of notebooks/digits.ipynb
	@$(BIN)/pytest --nbmake --nbmake-timeout 1800 -n 0 -q $(or $(ARGS),notebooks)

bench: $(VENV)/core ## time images of the bundled model, cold and warm (ARGS="--batch 1 -o benchmarks/results")
	@$(BIN)/vqdiff bench --size emoji $(ARGS)

study: $(VENV)/study data/emoji ## repeat a small study of guidance and of purity
	@$(BIN)/vqdiff study configs/studies/quick.toml $(ARGS)

data/emoji: | $(VENV)/study
	@mkdir -p data
	@$(BIN)/vqdiff data emoji -o data/emoji --only-drawings

$(VENV)/dev: extras := [all,ray,dev]
$(VENV)/study: extras := [train,eval]
$(VENV)/docs: extras := [docs]
$(VENV)/core $(VENV)/dev $(VENV)/docs $(VENV)/study: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vqdiff needs Python 3.11 or later and found '$(PYTHON)' to be none: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (a minute or two, only once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.$(extras)'
	@touch $@
