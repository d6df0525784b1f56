# Two commands: `make quickstart` and `make test`. Each installs what it needs, and no more, from its lock into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PYTHONUNBUFFERED = 1

.PHONY: help quickstart test quick check fuzz lock clean

help:
	@echo "make quickstart   install what it needs (1.7 GB), then compress the emoji-search teacher into a bundle"
	@echo "make test         install what it needs (2.6 GB), then run every check and test"
	@echo "make quick        linters, types, import floors and the tests that are quick"
	@echo "make check        linters, types and import floors only"
	@echo "make fuzz         open mutants of bundles until interrupted; what fails is kept in fuzz-failures/"
	@echo "make lock         renew both locks from pyproject.toml"
	@echo "make clean        remove the virtual environment and the store"
	@echo "PYTHON=python3.12 takes another Python (3.11 to 3.13), VENV=FOLDER another place."

quickstart:
	@$(PYTHON) install.py quickstart $(VENV)
	$(BIN)/edgemm run export/recipes/emoji-search.toml --target cpu-int8 --target openvino-int8 --out out/emoji-search

# Two processes, one thread each; a process with nothing left to do takes tests from the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: check
	$(PYTEST) --durations=20

quick: check
	$(PYTEST) -m "not corridor and not docs and not slow"

check:
	@$(PYTHON) install.py test $(VENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz:
	@$(PYTHON) install.py test $(VENV)
	$(BIN)/python tests/attacks/fuzz.py

# The quick start's weights of MiniLM ask for sentence-transformers, which nothing here imports: out of its lock it stays.
LEFT_OUT := sentence-transformers scikit-learn scipy joblib narwhals threadpoolctl
FREEZE   := .venv-lock/bin/python -m pip freeze --exclude edgemm
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install torch==2.13.0
	.venv-lock/bin/python -m pip install ".[build,demo,openvino]"
	(echo "# Made by 'make lock': what the quick start needs, edgemm[build,demo,openvino], as in requirements.lock."; \
	 $(FREEZE) $(LEFT_OUT:%=--exclude %) | sed 's/+cpu$$//') > requirements-quickstart.lock
	.venv-lock/bin/python -m pip install ".[test]"
	(echo "# Made by 'make lock': every package of edgemm[test] at the versions it is tested with."; \
	 $(FREEZE) | sed 's/+cpu$$//') > requirements.lock
	rm -rf .venv-lock build

clean:
	rm -rf $(VENV) .edgemm out build
