"""How runs end: many runs of 600 rows, every other one failing on a NaN row, whose stderr must have no traceback.

    python benchmarks/endings.py [RUNS] [--how program|submit|script] [--interrupt]

``submit``: each run by a spark-submit of its own, ``script``: by a script that makes and stops a session as a notebook
does; in both the JVM prints to the terminal. ``--interrupt``: each run gets Ctrl-C (SIGINT to its process group) while
it compares. Prints a line for each run, and ends with status 1 where any stderr had a traceback or a run ended with
another status than expected (0, 1; interrupted: 130).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
TELLTALE = ("Traceback", "BrokenPipeError", "ConnectionResetError", "daemon.py")
"""Of a Python process; Spark's own log of a failed task quotes the worker's error, so it is turned off."""

JOB = "import sys\nfrom spark_semdedup.cli.main import main\nsys.exit(main())\n"
LOG = """
rootLogger.level = off
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
"""
"""Without an appender Spark would take its own settings."""
SCRIPT = """
import sys
from pyspark.sql import SparkSession
from spark_semdedup import InvalidRowsError, SemDedup

spark = SparkSession.builder.master("local[2]").config("spark.driver.memory", "1g").getOrCreate()
status = 0
try:
    documents = spark.read.parquet(sys.argv[1])
    model = SemDedup(eps=0.05).fit(documents)
    print("assign and compare", file=sys.stderr, flush=True)
    result = model.run(documents)
    result.deduplicated.write.mode("overwrite").parquet(sys.argv[2])
    result.duplicates.limit(1).collect()
    result.unpersist()
except InvalidRowsError:
    status = 1
except KeyboardInterrupt:
    status = 130
spark.stop()
sys.exit(status)
"""


def write_rows(path: Path, *, nan: bool) -> None:
    x = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    if nan:
        x[300, 3] = np.nan
    pq.write_table(pa.table({"id": range(600), "embedding": pa.array(x.tolist(), pa.list_(pa.float32()))}), path)


def command(input_: Path, output: Path, how: str) -> list[str]:
    options = ["run", "--input", str(input_), "--output", str(output), "--overwrite"]
    if how == "program":
        return [sys.executable, "-m", "spark_semdedup", *options, "--local-cores", "2", "--local-memory", "1"]
    program = output.parent / f"{how}.py"
    if how == "script":
        program.write_text(SCRIPT)
        return [sys.executable, str(program), str(input_), str(output)]
    program.write_text(JOB)
    runner = [sys.executable, "-c", "from pyspark.find_spark_home import _find_spark_home as f; print(f())"]
    home = subprocess.run(runner, capture_output=True, text=True, check=True).stdout.strip()
    options_of_spark = ["--master", "local[2]", "--driver-memory", "1g"]
    return [f"{home}/bin/spark-submit", *options_of_spark, str(program), *options]


def silent_log(folder: Path) -> dict[str, str]:
    """Settings by which any JVM of this user keeps its log to itself, but prints what its workers print."""
    (folder / "log4j2.properties").write_text(LOG)
    return {"JDK_JAVA_OPTIONS": f"-Dlog4j2.configurationFile=file:{folder / 'log4j2.properties'}"}


def run(words: list[str], stderr: Path, *, interrupt: bool) -> int:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    with open(stderr, "wb") as said:
        process = subprocess.Popen(
            words,
            env={**environment, **silent_log(stderr.parent)},
            stdout=said,  # to which spark-submit prints both of the program
            stderr=said,
            start_new_session=True,
        )
        while interrupt and process.poll() is None:
            if b"assign and compare" in stderr.read_bytes():
                os.killpg(process.pid, signal.SIGINT)
                break
            time.sleep(0.05)
        status = process.wait()
    time.sleep(1)  # workers may outlive it for a moment
    return status


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="?", type=int, default=50)
    parser.add_argument("--how", choices=["program", "submit", "script"], default="program")
    parser.add_argument("--interrupt", action="store_true")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for nan in (False, True):
            write_rows(folder / f"{nan}.parquet", nan=nan)
        for i in range(args.runs):
            nan = bool(i % 2) and not args.interrupt
            stderr = folder / "stderr"
            status = run(command(folder / f"{nan}.parquet", folder / "out", args.how), stderr, interrupt=args.interrupt)
            text = stderr.read_text(errors="replace")
            traces = sum(text.count(word) for word in TELLTALE)
            expected = (130, -signal.SIGINT) if args.interrupt else (int(nan),)
            wrong += traces > 0 or status not in expected
            print(
                f"run {i + 1}: status {status}, {len(text.splitlines())} lines on stderr, {traces} tracebacks",
                flush=True,
            )
            if traces or status not in expected:
                print(text, flush=True)
    print(f"{args.runs} runs, {wrong} with a traceback or another status")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
