# make setup   a virtual environment in .venv with the command `modiff` in it
# make demo    simulated data, a small MoDiff trained on the CPU, samples, scores, runs/demo/report.html
# make test    formatter, linter, type checker, tests
# make coverage the same, and which lines no test reaches
# make docs    the site, in build/site
# make dist    wheel and sdist, in dist
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test coverage lint docs dist format clean

setup: .venv/.complete

# The stamp is written last: an interrupted set-up is taken up again.
.venv/.complete: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/modiff demo -o runs/demo

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: lint
	# One thread a worker: two workers with a pool each would wait on one another.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# The same, slower, and which lines no test reaches.
coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term:skip-covered

docs: .venv/.docs
	$(BIN)/python -m mkdocs build --strict --site-dir build/site

.venv/.docs: .venv/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

dist: setup
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs build dist
