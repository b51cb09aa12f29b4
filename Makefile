# Two targets matter: `make up` ends with a working, editable xFormers; `make test` proves what the README says.

PYTHON ?= python3
TOOLS := .tools

.DEFAULT_GOAL := help
.PHONY: help up test test-long lint bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

up: $(TOOLS)/ready  ## a working, editable xFormers in ./xformers-0.0.35
	$(TOOLS)/bin/xfdev up xformers==0.0.35

test: $(TOOLS)/test  ## all tests, in two processes; needs a C++ compiler
	$(TOOLS)/bin/python -m pytest --numprocesses 2 --no-loadscope-reorder

test-long: $(TOOLS)/test  ## 500 random edit sequences instead of 25, 200 kills instead of 5, whole nights
	XFDEV_SEQUENCES=500 $(TOOLS)/bin/python -m pytest tests/integration/test_differential.py
	XFDEV_KILLS=200 $(TOOLS)/bin/python -m pytest tests/integration/test_rebuild_on_import.py tests/integration/test_faults.py -k killed
	XFDEV_NIGHT_KILLS=20 $(TOOLS)/bin/python -m pytest tests/container/test_nightly_container.py -k random
	$(TOOLS)/bin/python -m pytest tests/container/long_images.py tests/container/long_nightly.py

lint: $(TOOLS)/test  ## formatting, lint, types
	$(TOOLS)/bin/ruff format --check src tests benchmarks tools
	$(TOOLS)/bin/ruff check src tests benchmarks tools
	$(TOOLS)/bin/mypy

bench: $(TOOLS)/ready  ## the table of the README, measured here (needs 15 GB and half an hour)
	$(TOOLS)/bin/python benchmarks/edit_loop.py

clean:  ## remove xfdev's own installation
	rm -rf $(TOOLS)

$(TOOLS)/ready: pyproject.toml
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TOOLS)/test: $(TOOLS)/ready
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@
