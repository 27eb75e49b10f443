# make demo        a first comparison: five methods in a minute, a table, a page, a picture
# make paper-demo  variational JKO at its paper's settings, in about two minutes
# make quick       lint, and the tests that end within a minute
# make test        lint, types, all tests
# make test-hostile  attacks on the runner and the command line: kills, corrupt files, methods that misbehave
# make test-slurm  plans on a real Slurm, which it installs on this machine (Debian, root)
# make docs        the documentation site, in site/, built strictly and without a network
# make bench       speed of the working tree, measured by asv
# make gpu         what a machine with one large GPU runs in 12 minutes; on the CPU, cut small: make gpu DEV=cpu
# make clean       remove what the others made

PYTHON ?= python3
BIN    := .venv/bin
RUN    := $(BIN)/python -m gwfbench

.PHONY: demo paper-demo test quick test-hostile test-slurm lint types docs bench gpu clean

demo: .venv/demo
	$(RUN) run --suite smoke --jobs 2 --out demo/runs
	$(RUN) report html demo/page.html --out demo/runs
	$(RUN) report pictures demo --task toy2d --out demo/runs

paper-demo: .venv/demo
	$(RUN) run --task ou --method vjko@ou --method ula --seeds 2

test: lint types .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not hostile"

quick: lint
	$(BIN)/python -m pytest -n 2 -m "not slow and not hostile"

test-hostile: .venv/ready
	$(BIN)/python -m pytest -n 2 -m hostile tests/hostile

test-slurm: .venv/ready
	tests/slurm/run $(BIN)/python -m pytest -m slurm tests/test_cluster.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: .venv/ready
	$(BIN)/pyright

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m scripts.docs.links site

bench: .venv/ready
	$(BIN)/asv machine --yes
	$(BIN)/asv run --python=same --show-stderr

gpu:
	scripts/gpu.sh

clean:
	rm -rf .venv .asv build demo site gpu-out *.egg-info

# The pins keep everybody on the same numbers. Remove .venv to move to newer ones.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# What runs and reports need, which is less than what the tests do.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"gwfbench: Python {sys.version.split()[0]} found, 3.11 or newer expected; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "installs torch and a dozen other packages into .venv: once, about a minute"
	$(PYTHON) -m venv .venv
	$(PIP) '.[report]'
	touch $@

.venv/ready: .venv/demo
	$(PIP) '.[dev]'
	touch $@
