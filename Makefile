# foveate from a clone: `make demo` and `make test` set everything up in .venv by themselves.
#
#   PYTHON       interpreter to make the environment with (3.11 or newer)
#   VENV_ARGS    arguments of `python -m venv`; --system-site-packages keeps a torch>=2.6 that is already there
#   TORCH_INDEX  a pip index to take torch from, e.g. PyTorch's index of CPU wheels, which saves GBs of CUDA
#   DEMO_ARGS, PYTEST_ARGS  more arguments for the command and for pytest
#   TESTS        which tests: an expression of pytest's markers

PYTHON      ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV        ?= .venv
VENV_ARGS   ?=
TORCH_INDEX ?=
DEMO_ARGS   ?=
PYTEST_ARGS ?=
EXTRAS      ?= sim,oft,train,vlm,serve,view,dev,browser

# OpenMP threads that spin while they wait would take the core of a simulator beside them.
export OMP_WAIT_POLICY ?= passive
# A process per core, of one thread; a file's tests stay together, since they share what is dear to make.
PARALLEL ?= --numprocesses auto --maxprocesses 8 --dist loadfile
TESTS ?= not slow and not gpu and not libero and not browser and not peer
STAMP := $(VENV)/.foveate-ready

# LIBERO, in an environment of its own. MuJoCo's version decides what is seen and what happens: docs/libero.md.
VENV_LIBERO ?= .venv-libero
MUJOCO      ?= 3.2.3

.PHONY: help setup gl demo test lint docs libero clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, then the main job on the shipped policy: full against pruned, with an HTML report"
	@echo "make test   set up, then the tests that need no GPU, no browser and no download"
	@echo "make lint   set up, then ruff, mypy and the import contract"
	@echo "make docs   the documents and an API reference in build/docs; fails where a link leads nowhere"
	@echo "make libero the simulator LIBERO in $(VENV_LIBERO), which \`foveate eval sim --env libero\` finds by itself"
	@echo "make setup  the environment in $(VENV) and the GL library alone"
	@echo "make clean  remove $(VENV), $(VENV_LIBERO) and caches (runs/ stays)"
	@echo
	@echo "Variables: PYTHON VENV VENV_ARGS TORCH_INDEX EXTRAS DEMO_ARGS PYTEST_ARGS TESTS MUJOCO; the head of the Makefile says what for."

$(STAMP): pyproject.toml constraints.txt scripts/setup_venv.sh scripts/system_packages.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" VENV_ARGS="$(VENV_ARGS)" TORCH_INDEX="$(TORCH_INDEX)" EXTRAS="$(EXTRAS)" \
		bash scripts/setup_venv.sh
	@touch $@

gl: $(STAMP)
	@bash scripts/ensure_gl.sh "$(VENV)/bin/python"

setup: $(STAMP) gl

libero:
	@bash scripts/setup_libero.sh "$(PYTHON)" "$(VENV_LIBERO)" "$(MUJOCO)"

demo: setup
	$(VENV)/bin/foveate demo $(DEMO_ARGS)

test: setup
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "$(TESTS)" $(PYTEST_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest tests/test_architecture.py -k imports

# Not --quiet: by it --strict counts no warning.
docs: $(STAMP)
	$(VENV)/bin/pip install --quiet --constraint $(VENV)/constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	$(VENV)/bin/md-dead-link-check

clean:
	rm -rf $(VENV) $(VENV_LIBERO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
