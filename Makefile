# make demo, make test: both do all the set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak lint lock bench clean

demo: .venv/installed
	$(BIN)/emocache demo

test: lint
	$(BIN)/pytest

# The long versions of the survival tests: some ten minutes; each says how many rounds it did.
soak: .venv/installed-for-tests
	$(BIN)/pytest -m soak

lint: .venv/installed-for-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed-for-tests
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/extract_memory.py
	$(BIN)/python benchmarks/exactness_text.py --dtypes float32
	$(BIN)/python benchmarks/video.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/store_growth.py
	$(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/remote_reading.py
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python benchmarks/fusion.py
	$(BIN)/python benchmarks/svm_ensemble.py

# The newest versions that pyproject.toml admits, as one resolution finds them; run make test before committing them.
lock: .venv/installed-for-tests
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report .venv/lock.json '.[test]'
	$(BIN)/python -c 'import json; found = [p["metadata"] for p in json.load(open(".venv/lock.json"))["install"]]; print("# The versions that make test was last green with; make lock remakes this file.", *sorted(f"""{m["name"].lower()}=={m["version"]}""" for m in found if m["name"] != "emocache"), sep="\n")' > constraints.txt

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emocache needs Python 3.11 or later; name one, as in: make PYTHON=python3.12 test")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-for-tests: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/installed

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
