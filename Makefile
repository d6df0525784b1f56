# Two commands: `make quickstart` and `make test`. Both make their own virtual environment from the lock.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := python -m pip install -qq --disable-pip-version-check
export PYTHONUNBUFFERED = 1

.PHONY: help quickstart vqa test check lock clean

help:
	@echo "make quickstart   install from the lock, then compress the emoji-search teacher into a bundle"
	@echo "make test         install from the lock, then run every check and test"
	@echo "make check        linters, types and import floors only"
	@echo "make lock         renew requirements.lock from pyproject.toml"
	@echo "make clean        remove the virtual environment and the store"

$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV) (about two minutes, once) ..."
	@# torch alone is resolved: its GPU build brings packages that its CPU build does not have.
	@$(BIN)/$(PIP) $$(grep '^torch==' requirements.lock) -c requirements.lock
	@$(BIN)/$(PIP) --no-deps -r requirements.lock
	@$(BIN)/$(PIP) --no-deps --editable .
	@touch $@

quickstart: $(BIN)/.installed
	$(BIN)/edgemm run export/recipes/emoji-search.toml --target cpu-int8 --target openvino-int8 --out out/emoji-search

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 && .venv-lock/bin/python -m pip install --quiet ".[test]"
	(echo "# Made by 'make lock': every package of edgemm[test] at the versions it is tested with."; \
	 .venv-lock/bin/python -m pip freeze --exclude edgemm | sed 's/+cpu$$//' ) > requirements.lock
	rm -rf .venv-lock build

clean:
	rm -rf $(VENV) .edgemm out build
