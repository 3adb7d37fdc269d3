# make demo      try it on a small real corpus
# make test      linters and types, then the tests of every promise
# make test-full make test, and the sweeps: whole corpora, kills at every moment, failures of clusters, notebooks
# make test-gpu  the kernels on this machine's GPU, and the whole job, which needs spark-rapids-ml and cuML
# make gpu-hour  all checks that need a GPU, each by itself: kernels, bounds, speed, sanitizer, whole jobs; an hour at most
# make test-matrix  the quick tests with each version of Spark and Python that is supported and here, one by one
# make docs      the documentation site, in build/docs; a broken link is an error
# make audit     known vulnerabilities of the packages installed; needs the network, so it is no part of make test
# make bench     ours beside its peers on this machine's CPUs, under 30 minutes; bench-1m: a million rows, about an hour
# make bench-gpu the kernel beside PyTorch's operations on this machine's GPU, under 5 minutes
#
# make jars      fetches, with Maven, the jars that some tests need, which are skipped without: rapids-jar, the NVIDIA
#                cuDF plugin (1 GB; also for the GPU settings in conf/; the tests need no GPU), and delta-jars, Delta
#                Lake (8 MB; also for the notebook about it)
#
# A virtual environment is made in $(VENV) when it is missing, and installed again when pyproject.toml changes.

PYSPARK ?= 4.0.3
VENV ?= .venv
# The NVIDIA cuDF plugin's version. It is built for each line of Scala; PyPI's Spark 3.5 has 2.12, Spark 4 has 2.13.
RAPIDS ?= 26.08.1
# Delta Lake's version for the line of Spark (https://docs.delta.io/releases), as the plugin supports it too.
DELTA ?= $(if $(filter 3.5.%,$(PYSPARK)),3.3.2,$(if $(filter 4.0.%,$(PYSPARK)),4.0.1,$(if $(filter 4.1.%,$(PYSPARK)),4.1.0,4.4.0)))
# For test-gpu, gpu-hour and bench-gpu: a Python that has CuPy, hypothesis, NumPy and pytest. Neither Spark nor Java is
# needed for the kernels. GPU_HOUR: where the hour's pages go.
GPU_PYTHON ?= python3
GPU_HOUR ?= build/gpu-hour
# Processes that share the tests by modules. Each has a Spark session of two cores, and takes about 4 GiB of memory.
WORKERS ?= 2
# For test-matrix: what to try, as SPARK-PYTHON, and which tests.
MATRIX ?= 3.5.8-3.10 3.5.8-3.11 4.0.3-3.10 4.0.3-3.12 4.1.3-3.11 4.1.3-3.13 4.2.0-3.10 4.2.0-3.12 4.3.0-3.11 4.3.0-3.13
MATRIX_TESTS ?= tests
# For bench: a folder of Parquet files with id and embedding (up to 64k rows), and where generated data goes.
BENCH_DATA ?= $(or $(wildcard ../shared/data/debian),spark_semdedup/data/debian-sample.parquet)
BENCH_DIR ?= build/bench

bin := $(VENV)/bin
pytest = $(bin)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --durations 10
installed := $(VENV)/.installed-$(PYSPARK)
installed_dev := $(VENV)/.installed-dev-$(PYSPARK)
installed_bench := $(VENV)/.installed-bench-$(PYSPARK)
installed_docs := $(VENV)/.installed-docs-$(PYSPARK)
# Spark 4.3 works with pandas 3, older versions with pandas 2.
pandas := $(if $(filter 4.3.%,$(PYSPARK)),pandas,pandas<3)
scala := $(if $(filter 3.%,$(PYSPARK)),2.12,2.13)
rapids_jar := build/jars/rapids-4-spark_$(scala)-$(RAPIDS).jar
delta_jars := build/jars/delta-spark_$(scala)-$(DELTA).jar build/jars/delta-storage-$(DELTA).jar
# Python compiles the modules it imports. Compiling all that is installed takes as long as installing it.
pip_install := $(bin)/python -m pip install --quiet --disable-pip-version-check --no-compile
requirements := PYTHON='$(PYTHON)' PYSPARK='$(PYSPARK)' sh .ci/check-requirements.sh

.PHONY: demo test test-full lint format audit test-quick test-slow test-gpu gpu-hour test-matrix docs bench bench-1m bench-gpu jars \
  rapids-jar delta-jars requirements clean

demo: requirements $(installed)
	$(bin)/spark-semdedup demo

test: lint test-quick

test-full: test test-slow

lint: requirements $(installed_dev)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

format: requirements $(installed_dev)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

# pip-audit has a virtual environment of its own: its dependencies are not ours.
audit: requirements $(installed)
	@test -x $(VENV)-audit/bin/pip-audit || { $(bin)/python -m venv $(VENV)-audit && \
	  $(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit==2.10.*'; } || { \
	  rm -rf $(VENV)-audit; echo "audit: pip-audit could not be installed" >&2; exit 1; }
	@$(bin)/python .ci/audit.py $(VENV)-audit/bin/pip-audit \
	  "$$($(bin)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

test-quick: requirements $(installed_dev)
	$(pytest) -m "not slow and not gpu"

test-slow: requirements $(installed_dev)
	$(pytest) -m "slow and not gpu"

# The other tests import pyspark, so no more than these are loaded. A machine without a GPU is refused, for there pytest
# would skip every test and call it a success.
test-gpu:
	@$(GPU_PYTHON) -c 'import cupy, hypothesis, pytest; cupy.arange(2).sum().get()' || { \
	  echo "test-gpu: $(GPU_PYTHON) needs a GPU, CuPy, hypothesis and pytest (set GPU_PYTHON to one with them)" >&2; \
	  exit 1; }
	$(GPU_PYTHON) -m pytest -m gpu tests/kernels
	@if $(GPU_PYTHON) -c 'import cuml, faiss, pyspark, spark_rapids_ml'; then $(GPU_PYTHON) -m pytest -m gpu tests/platforms/test_gpu_job.py; \
	else echo "test-gpu: the kernels' tests passed; the whole job was not tried, for want of what the line above says" >&2; \
	exit 1; fi

# Ends with 1 where a check failed, with 3 where some were skipped: gpu-hour.md says which.
gpu-hour:
	$(GPU_PYTHON) benchmarks/gpu_hour.py $(GPU_HOUR)

# One after the other, each in an environment of its own; what is not here (pyenv's shims do not run either) is skipped.
test-matrix: $(MATRIX:%=test-matrix-%)

test-matrix-%:
	@spark=$(firstword $(subst -, ,$*)) python=python$(lastword $(subst -, ,$*)); \
	if ! $$python -c '' 2>/dev/null; then echo "test-matrix: Spark $$spark, $$python: skipped, there is no $$python"; \
	else echo "test-matrix: Spark $$spark, $$python" && \
	  $(MAKE) --no-print-directory matrix-tests VENV=.venv-$* PYSPARK=$$spark PYTHON=$$python; fi

.PHONY: matrix-tests
matrix-tests: requirements $(installed_dev)
	$(pytest) -q -m "not slow and not gpu" $(MATRIX_TESTS)

docs: requirements $(installed_docs)
	$(bin)/zensical build --strict --clean

bench: requirements $(installed_bench) $(BENCH_DIR)/rows-250000
	$(bin)/python benchmarks/bench.py $(BENCH_DATA) --limit 100
	$(bin)/python benchmarks/bench.py $(BENCH_DIR)/rows-250000 --limit 400 --floor
	$(bin)/python benchmarks/skew.py

bench-1m: requirements $(installed_bench) $(BENCH_DIR)/rows-250000 $(BENCH_DIR)/rows-1000000
	$(bin)/python benchmarks/bench.py $(BENCH_DIR)/rows-250000 $(BENCH_DIR)/rows-1000000 --methods ours --floor
	$(bin)/python benchmarks/bench.py $(BENCH_DIR)/rows-1000000 --methods semhash --limit 3600

$(BENCH_DIR)/rows-%: | $(installed)
	@mkdir -p $(BENCH_DIR) && rm -rf $@.part
	$(bin)/python benchmarks/generate.py $@.part --rows $*
	@mv $@.part $@

bench-gpu:
	$(GPU_PYTHON) benchmarks/gpu_kernel.py

jars: rapids-jar delta-jars
rapids-jar: $(rapids_jar)
delta-jars: $(delta_jars)

$(rapids_jar): group := com.nvidia
$(delta_jars): group := io.delta

# Version 2.8 of the Maven plugin copies the file it is told; later ones, dependency:get and spark.jars.packages read its
# POM first, and that of rapids-4-spark 26.08.1 names a parent that cannot be fetched.
$(rapids_jar) $(delta_jars):
	mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:2.8:copy \
	  -Dartifact=$(group):$$(echo '$(@F)' | sed 's/-\([0-9.]*\)[.]jar$$/:\1/') -DoutputDirectory=$@.part
	@mv $@.part/$(@F) $@ && rmdir $@.part

requirements:
	@$(requirements) >/dev/null

$(bin)/python:
	@python=$$($(requirements)) && echo "$(VENV): $$python" && "$$python" -m venv $(VENV)

# A stamp of another kind or version says nothing about what is installed after this, so it goes.
$(installed): pyproject.toml | $(bin)/python
	@rm -f $(VENV)/.installed-*
	$(pip_install) --editable . 'pyspark==$(PYSPARK)' '$(pandas)'
	@touch $@

$(installed_dev): pyproject.toml | $(bin)/python
	@rm -f $(VENV)/.installed-*
	$(pip_install) --editable '.[dev]' 'pyspark==$(PYSPARK)' '$(pandas)'
	@touch $(installed) $@

$(installed_bench): $(installed)
	$(pip_install) --editable '.[bench]' 'pyspark==$(PYSPARK)' '$(pandas)'
	@touch $@

$(installed_docs): $(installed)
	$(pip_install) --editable '.[docs]' 'pyspark==$(PYSPARK)' '$(pandas)'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis spark-warehouse
