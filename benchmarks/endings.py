"""How runs end: many runs of 600 rows, every other one failing on a NaN row, whose stderr must have no traceback.

    python benchmarks/endings.py [RUNS] [--spark-submit] [--interrupt]

``--spark-submit``: each run by a spark-submit of its own, whose JVM prints to the terminal. ``--interrupt``: each run
gets Ctrl-C (SIGINT to its process group) while it compares. Prints a line for each run, and ends with status 1 where
any stderr had a traceback or a run ended with another status than expected (0, 1; interrupted: 130).
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
TELLTALE = ("Traceback", "BrokenPipeError", "daemon.py")
"""Of a Python process; Spark's own log of a failed task quotes the worker's error, so that has these, too."""


def write_rows(path: Path, *, nan: bool) -> None:
    x = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    if nan:
        x[300, 3] = np.nan
    pq.write_table(pa.table({"id": range(600), "embedding": pa.array(x.tolist(), pa.list_(pa.float32()))}), path)


def command(input_: Path, output: Path, *, submit: bool) -> list[str]:
    options = ["run", "--input", str(input_), "--output", str(output), "--overwrite"]
    if not submit:
        return [sys.executable, "-m", "spark_semdedup", *options, "--local-cores", "2", "--local-memory", "1"]
    job = output.parent / "job.py"
    job.write_text("import sys\nfrom spark_semdedup.cli.main import main\nsys.exit(main())\n")
    log = f"-Dlog4j2.configurationFile=file:{output.parent / 'log4j2.properties'}"
    (output.parent / "log4j2.properties").write_text("rootLogger.level = off\n")
    runner = [sys.executable, "-c", "from pyspark.find_spark_home import _find_spark_home as f; print(f())"]
    home = subprocess.run(runner, capture_output=True, text=True, check=True).stdout.strip()
    submit_ = [
        f"{home}/bin/spark-submit",
        "--master",
        "local[2]",
        "--driver-memory",
        "1g",
        "--driver-java-options",
        log,
    ]
    return [*submit_, str(job), *options]


def run(words: list[str], stderr: Path, *, interrupt: bool) -> int:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    with open(stderr, "wb") as said:
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
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
    parser.add_argument("--spark-submit", action="store_true")
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
            words = command(folder / f"{nan}.parquet", folder / "out", submit=args.spark_submit)
            status = run(words, stderr, interrupt=args.interrupt)
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
