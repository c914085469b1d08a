# `make demo` and `make test` are all that a fresh machine needs; both install first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint clean
install: .venv/installed

# The exact pins come first, so that the project's own ranges find them satisfied.
.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

lint: install
	$(BIN)/pre-commit run --all-files

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv data runs
