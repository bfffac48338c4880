# make install   an environment with everything in it: .venv, or the active virtual environment, or VENV=path
# make demo      the main job on the embedded model: a scored sweep, its spreadsheets and plot in results/demo
# make test      the test suite
# make check     style and types
#
# Every target makes the environment when there is none; it is brought up to date when pyproject.toml changes.
# PYTHON=python3.12 chooses the interpreter that makes it. PIP_ARGS reaches pip unchanged: on a machine without an NVIDIA
# GPU, --extra-index-url with the CPU index that PyTorch's "Get started" page names saves about 6 GB.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: install demo test check

PYTHON ?= python3
VENV ?= $(or $(VIRTUAL_ENV),.venv)
PIP_ARGS ?=
STAMP := $(VENV)/.script-vlmeval

install: $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/python run.py --config configs/tiny.yaml --work-dir results/demo

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

# bin/pip is what a half-made environment lacks (Debian without python3-venv), so it decides whether to make one.
$(STAMP): pyproject.toml
	@echo "Installing into $(VENV) (about 3 minutes, 7 GB with the default CUDA build of PyTorch)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]' $(PIP_ARGS)
	@touch $@
