# make quickstart and make test do all their own set-up: a virtual environment in .venv, the pinned dependencies in it.
# PYTHON=/path/to/python3 chooses the interpreter, EXTRAS=test,slurm what is installed beyond the harness itself.

PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
EXTRAS ?= test
BIN := .venv/bin
INSTALLED := .venv/.installed-$(EXTRAS)

.PHONY: quickstart test test-long test-cuda gpu check format lock

quickstart: $(INSTALLED)  ## four small networks on the digits, tables and a report: under two minutes
	$(BIN)/python src/train.py sweep=quickstart

test: $(INSTALLED)  ## the tests that take seconds, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-long: $(INSTALLED)  ## the ones that take minutes, a browser, Slurm, or kill processes (5: there are none)
	$(BIN)/python -m pytest -m "slow or chromium or slurm or fault" || [ $$? -eq 5 ]

test-cuda: $(INSTALLED)  ## on a GPU only: the captured step, and that a run resumed there is bit-identical
	$(BIN)/python -m pytest -m cuda

gpu: $(INSTALLED)  ## the first hour on a GPU, in order; stops at what fails (docs/gpu.md)
	mkdir -p results/gpu
	OUT=results/gpu PYTHONPATH=src $(BIN)/python tests/smoke.py
	$(BIN)/python -m pytest -m cuda
	$(BIN)/python src/benchmark.py --rounds 3 --output results/gpu/benchmark.json
	$(BIN)/python src/train.py model=resnet20 trainer.strict=true
	$(BIN)/python src/train.py sweep=degradation seed=0
	$(BIN)/python src/report.py results/runs

check: $(INSTALLED)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(INSTALLED)  ## requirements.txt anew, from what pyproject.toml allows
	$(BIN)/python -m pip install -qq --disable-pip-version-check pip-tools
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --all-extras --output-file requirements.txt \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host pyproject.toml

# The pins serve as constraints, not as a list, because torch needs its CUDA libraries on Linux only. The install is
# editable so that the workers that Hydra's launchers start, who do not have src/ on their path, find the package.
$(INSTALLED): pyproject.toml requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		for python in $(PYTHONS); do \
			if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
				exec $$python -m venv --clear .venv; \
			fi; \
		done; \
		echo "make: Python 3.11, 3.12 or 3.13 with venv is needed, not found as: $(PYTHONS) (choose one: make PYTHON=/path/to/python3.12; Debian, Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	@echo "Installing into .venv (once; PyTorch for CUDA is several gigabytes and takes minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint requirements.txt --editable '.[$(EXTRAS)]'
	@touch $@
