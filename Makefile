# Two commands: `make pretrain` trains a small ALBERT on this machine, `make test` runs the tests.
# Set PYTHON to choose the interpreter that the environment in .venv is made with (3.10 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: pretrain test test-slow

pretrain: $(VENV)/.installed
	$(RUN) main-pretrain.py --model tiny

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -m "not slow" -n auto --maxprocesses 4

test-slow: $(VENV)/.installed-dev
	$(RUN) -m pytest -m slow

# Each marker is older than the requirements it stands for only when they have changed.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@
