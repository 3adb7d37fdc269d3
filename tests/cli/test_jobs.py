"""``jobs/*.py``: the program for spark-submit."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from marks import slow

import spark_semdedup
from spark_semdedup.cli import commands
from spark_semdedup.cli import main as cli

JOBS = Path(__file__).parents[2] / "jobs"
COMMANDS = {
    "semdedup": "run",
    "cluster": "cluster",
    "pairwise": "pairwise",
    "identify": "identify",
    "remove": "remove",
    "evaluate": "evaluate",
    "plan": "plan",
    "doctor": "doctor",
}


def test_each_job_has_a_command_and_one_takes_any():
    assert {path.stem for path in JOBS.glob("*.py")} == set(COMMANDS)
    assert set(COMMANDS.values()) <= set(commands.COMMANDS)


@pytest.mark.parametrize("job", [job if job == "evaluate" else slow(job) for job in COMMANDS])
def test_a_job_takes_the_options_of_its_command(job):
    ended = subprocess.run([sys.executable, JOBS / f"{job}.py", "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"usage: spark-semdedup {COMMANDS[job]} {'' if job == 'doctor' else '--input'}")


@pytest.mark.parametrize("arguments", ["plan", "plan --eps 0.1", "", "--eps 0.1"])
def test_the_job_for_all_takes_a_command_first_and_runs_the_whole_without_one(monkeypatch, arguments):
    given, words = [], arguments.split()
    monkeypatch.setattr(cli, "main", lambda argv: given.append(argv) or 0)
    monkeypatch.setattr(sys, "argv", ["jobs/semdedup.py", *words])
    runpy.run_path(str(JOBS / "semdedup.py"), run_name="__main__")
    assert given == [words if words[:1] == ["plan"] else ["run", *words]]


@pytest.mark.parametrize("job", COMMANDS)
def test_a_job_ends_with_the_status_of_a_failure_alone(monkeypatch, job):
    """A notebook platform takes any SystemExit for a failure."""
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "--eps", "0.1"])
    monkeypatch.setattr(cli, "main", lambda argv: 0 if argv == [COMMANDS[job], "--eps", "0.1"] else 1)
    runpy.run_path(str(JOBS / f"{job}.py"), run_name="__main__")
    monkeypatch.setattr(cli, "main", lambda argv: 2)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(JOBS / f"{job}.py"), run_name="__main__")
    assert left.value.code == 2


def package_zip(folder: Path) -> Path:
    """The package as ``--py-files`` takes it."""
    root = Path(spark_semdedup.__file__).parent
    with zipfile.ZipFile(folder / "spark_semdedup.zip", "w") as archive:
        for path in (path for path in root.rglob("*.*") if "__pycache__" not in path.parts):
            archive.write(path, path.relative_to(root.parent))
    return folder / "spark_semdedup.zip"


def submit(job: str, *arguments: object, py_files: Path, **options: object) -> subprocess.CompletedProcess:
    command = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    settings = ["--master", "local[2]", "--driver-memory", "1g", "--conf", "spark.ui.enabled=false"]
    return subprocess.run(
        [command, *settings, "--py-files", py_files, JOBS / f"{job}.py", *map(str, arguments)],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.slow
def test_spark_submit_gives_the_rows_that_the_command_gives(spark, tmp_path):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 16))[np.arange(200) % 50] + 0.1 * rng.normal(size=(200, 16))
    table = pa.table({"id": range(200), "embedding": pa.array(vectors.tolist(), pa.list_(pa.float64()))})
    pq.write_table(table, tmp_path / "in.parquet")
    arguments = ["--input", str(tmp_path / "in.parquet"), "--k", "6", "--which-to-keep", "random", "--eps", "0.02"]
    assert cli.main(["run", *arguments, "--output", str(tmp_path / "command")]) == 0

    py_files = package_zip(tmp_path)
    ended = submit("semdedup", *arguments, "--output", "submitted", py_files=py_files, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "[4/5] write the kept rows ... " in ended.stdout  # where spark-submit sends both streams
    for name in ("similarities", "duplicates", "deduplicated"):
        one, other = (pq.read_table(tmp_path / place / name).sort_by("id") for place in ("command", "submitted"))
        assert one.equals(other)
        assert one.num_rows > 0

    refused = submit("semdedup", *arguments, "--output", "submitted", py_files=py_files, cwd=tmp_path)
    assert refused.returncode != 0
    assert "spark-semdedup: error: --output='submitted' exists already" in refused.stdout
