# The commands that CI runs, one by one: `.ci/run` makes a virtual environment from nothing and then
# calls `make ci` in it. They work in any environment with what requirements/dev.lock names, of which
# `make install` makes one.

PYTHON ?= python3
VENV ?= .venv
# Where tools come from: the active environment, else VENV.
BIN := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(VENV))/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help install ci js format lint types test unit fuzz client-alone oldest lock audit sbom

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install:  ## a virtual environment with exactly what is locked, and this checkout in it
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/dev.lock
	$(VENV)/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation -e .

ci: lint types test  ## what a change has to pass

js:  ## the JavaScript client and the console: packages, types, lint, size, tests; `make test` runs them, too
	cd clients/js && npm ci --silent --no-audit --no-fund
	cd clients/js && npm ci --silent --no-audit --no-fund --prefix tests/react-18
	cd clients/js && npm run --silent check
	cd tests/console && npm ci --silent --no-audit --no-fund
	cd tests/console && npm run --silent lint

format:  ## bring everything into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:  ## shape and faults that can be seen by reading
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:  ## mypy, strict
	$(BIN)/mypy

test:  ## the whole suite
	$(BIN)/python -m pytest

# Directories whose tests start no server, for the other Python versions.
UNIT = auth config delivery http log metrics protocol sockets sql subscriptions supervision
unit:  ## the tests that start no server
	$(BIN)/python -m pytest -q $(addprefix tests/,$(UNIT))

fuzz:  ## what parses bytes from outside, 30 s a target (FUZZ_SECONDS, FUZZ_JOBS)
	$(BIN)/python tests/fuzz/run.py

client-alone:  ## the client with nothing but its own dependencies, the oldest websockets it takes
	$(BIN)/python tests/client/alone.py

oldest:  ## the server's sockets on the oldest websockets that it takes
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(PIP) install --no-deps --target "$$dir" 'websockets==15.0.*' && \
	PYTHONPATH="$$dir" $(BIN)/python -m pytest -q tests/sockets tests/protocol tests/integration/test_door.py

lock:  ## requirements/*.lock anew from pyproject.toml; wants uv
	requirements/lock

audit:  ## known vulnerabilities of what is locked; wants pip-audit and its database
	requirements/audit

sbom:  ## a CycloneDX bill of materials of what is locked, on stdout; wants cyclonedx-bom
	requirements/sbom
