"""One Spark session for the whole suite. Kernel tests (tests/kernels) never ask for it, so they run without Java."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

collect_ignore = ["databricks_stand_in.py"]  # it is run before a notebook, and is no module of tests

with suppress(ImportError):  # the kernels' tests run without pyspark and FAISS
    from spark_semdedup.clustering.openblas import import_faiss

    import_faiss()  # before a module of tests does: other processes fit with the same products

os.environ["PYSPARK_PYTHON"] = sys.executable  # Spark's workers are "python3" from PATH unless told


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    from known_members import remember_classes

    from spark_semdedup.spark.session import local_session

    remember_classes()
    # Small data, many queries: generating code for each plan, and compiling it to the utmost, takes longer than running
    # it. (The default code cache is too small for so much code, which is swept and compiled again.)
    java = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
    conf = {
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # seven calls of the JVM for each of a DataFrame
        "spark.python.daemon.module": "daemon_without_zips",
        "spark.executorEnv.PYTHONPATH": str(Path(__file__).parent),
        "spark.driver.extraJavaOptions": java,
        "spark.local.dir": str(tmp_path_factory.mktemp("local")),
        "spark.sql.warehouse.dir": tmp_path_factory.mktemp("warehouse").as_uri(),
    }
    session = local_session("spark-semdedup tests", cores=2, memory_gib=2, conf=conf)
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(spark, corpus):
    """The table of the ``corpus`` that a module or folder of tests has, in three partitions."""
    df = corpus.frame(spark).repartition(3).persist()
    yield df
    df.unpersist()


@pytest.fixture(autouse=True)
def _doctest_names(request: pytest.FixtureRequest, doctest_namespace: dict) -> None:
    """Doctests of the Spark stages find a session under the name ``spark``, as in the pyspark shell."""
    if isinstance(request.node, pytest.DoctestItem) and ".kernels." not in request.node.name:
        doctest_namespace["spark"] = request.getfixturevalue("spark")
