# Two commands: `make distill` runs the main job on the embedded teacher and text, `make test` the whole test suite.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup distill check test browser docs soak audit clean

setup: .venv/installed

# torch comes first and alone: anything that depends on it would else bring a build of its own choice.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

distill: setup
	$(BIN)/diito distill recipes/quickstart.yaml

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One OpenMP thread a worker: the models of the tests are so small that more threads only wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal

# What the explorer's tests in a real browser need: without it they are skipped. Chromium comes from the system's packages.
browser: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[explorer]' playwright
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; } >/dev/null

# The documentation site; a warning is an error.
docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

# What takes a minute or more a test: Ray with jobs that fail or are killed, all sides of the benchmarks.
soak: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m soak

# Known vulnerabilities of the packages; needs the network, and says so where there is none.
audit: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check --retries 0 pip-audit >/dev/null 2>&1 \
	  && $(BIN)/python -c 'import json, urllib.request as r; \
	       assert json.load(r.urlopen("https://pypi.org/pypi/pip/23.2/json", timeout=10))["vulnerabilities"]' >/dev/null 2>&1 \
	  || { echo "nothing was audited: pip-audit, or the list of vulnerabilities of pypi.org, cannot be reached"; exit 0; }; \
	  $(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
