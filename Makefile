# make demo      try it on a small real corpus
# make test      linters and types, the quick tests, then the slow ones
# make test-gpu  the kernels on this machine's GPU
#
# A virtual environment is made in $(VENV) when it is missing, and installed again when pyproject.toml changes.

PYSPARK ?= 4.0.3
VENV ?= .venv
# For test-gpu: a Python that has CuPy, hypothesis, NumPy and pytest. Neither Spark nor Java is needed.
GPU_PYTHON ?= python3

bin := $(VENV)/bin
installed := $(VENV)/.installed-$(PYSPARK)
installed_dev := $(VENV)/.installed-dev-$(PYSPARK)
requirements := PYTHON='$(PYTHON)' PYSPARK='$(PYSPARK)' sh .ci/check-requirements.sh

.PHONY: demo test lint format test-quick test-slow test-gpu requirements clean

demo: requirements $(installed)
	$(bin)/spark-semdedup demo

test: lint test-quick test-slow

lint: requirements $(installed_dev)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

format: requirements $(installed_dev)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

test-quick: requirements $(installed_dev)
	$(bin)/python -m pytest -m "not slow and not gpu"

test-slow: requirements $(installed_dev)
	$(bin)/python -m pytest -m "slow and not gpu"

# Only this folder is loaded: the other tests import pyspark. A machine without a GPU is refused, for there pytest would
# skip every test and call it a success.
test-gpu:
	@$(GPU_PYTHON) -c 'import cupy, hypothesis, pytest; cupy.arange(2).sum().get()' || { \
	  echo "test-gpu: $(GPU_PYTHON) needs a GPU, CuPy, hypothesis and pytest (set GPU_PYTHON to one with them)" >&2; \
	  exit 1; }
	$(GPU_PYTHON) -m pytest -m gpu tests/kernels

requirements:
	@$(requirements) >/dev/null

$(bin)/python:
	@python=$$($(requirements)) && echo "$(VENV): $$python" && "$$python" -m venv $(VENV)

# A stamp of another kind or version says nothing about what is installed after this, so it goes.
$(installed): pyproject.toml | $(bin)/python
	@rm -f $(VENV)/.installed-*
	$(bin)/python -m pip install --quiet --disable-pip-version-check --editable . 'pyspark==$(PYSPARK)'
	@touch $@

$(installed_dev): pyproject.toml | $(bin)/python
	@rm -f $(VENV)/.installed-*
	$(bin)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 'pyspark==$(PYSPARK)'
	@touch $(installed) $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis spark-warehouse
