# Everything below makes its own virtual environment first; nothing needs to be activated.
.DEFAULT_GOAL := help
.PHONY: help demo test test-faults test-lowest test-312 lint clean

PYTHON ?= python3
PYTHON312 ?= python3.12
BIN := .venv/bin
READY := .venv/.ready

help:
	@echo "make demo   find, train and ship a network for the built-in digits on this machine"
	@echo "make test   lint, types, fast tests"
	@echo "make lint   lint and types only"
	@echo "make test-lowest   fast tests with the lowest versions that pyproject.toml allows"
	@echo "make test-312      fast tests on Python 3.12 (PYTHON312=...)"
	@echo "make clean  remove the environment, caches and builds (never runs/)"

# The stamp is written last, so that an interrupted installation is repeated.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
		f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}; fix: make PYTHON=python3.11")'
	@echo "installing into .venv (once; a few minutes, torch and TVM are large) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/hwautoml run digits --target cpu --latency-ms 0.3 --out runs/demo --overwrite

lint: $(READY)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && echo "ruff: clean, formatted"
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

# All trials of damaged files and wild requests, of which the fast tests have a few: half an hour and more.
test-faults: $(READY)
	@$(BIN)/python -m pytest -q -m faults tests/faults

# The fast tests in environments of their own.
test-lowest: .venv-lowest/.ready
	@.venv-lowest/bin/python -m pytest -q -n 2 --dist loadfile

test-312: .venv-312/.ready
	@.venv-312/bin/python -m pytest -q -n 2 --dist loadfile

.venv-lowest/.ready: INTERPRETER = $(PYTHON)
.venv-lowest/.ready: constraints-lowest.txt
.venv-312/.ready: INTERPRETER = $(PYTHON312)
.venv-312/.ready: constraints.txt
.venv-lowest/.ready .venv-312/.ready: pyproject.toml
	@echo "installing into $(@D) ..."
	@$(INTERPRETER) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(filter constraints%,$^) -e '.[dev]'
	@touch $@

clean:
	@rm -rf .venv .venv-lowest .venv-312 .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find hwautoml tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
