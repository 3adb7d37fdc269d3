"""``report``, and ``run`` with a report, rows for Embedding Atlas and metrics."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from spark_semdedup.cli.main import main
from spark_semdedup.runs.summary import COUNTS, Summary

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def source(spark, tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(2)
    vectors = np.repeat(rng.standard_normal((8, 5)), 4, axis=0) + 0.05 * rng.standard_normal((32, 5))
    rows = [(i, f"words {i}", vector.tolist()) for i, vector in enumerate(vectors)]
    path = str(tmp_path_factory.mktemp("source") / "in")
    spark.createDataFrame(rows, "id bigint, text string, embedding array<double>").write.parquet(path)
    return path


@pytest.fixture(scope="module")
def output(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with all that can be written about it."""
    folder = tmp_path_factory.mktemp("output")
    about = ["--report", "--export-atlas", folder / "rows.parquet", "--metrics-prometheus", folder / "run.prom"]
    assert main(list(map(str, ["run", "--input", source, "--output", folder / "out", "--k", "2", *about]))) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("spark-semdedup: error: ").strip()


def test_a_run_writes_page_rows_and_metrics(output: Path):
    summary = json.loads((output / "out" / "summary.json").read_text())
    page = (output / "out" / "report.html").read_text("utf-8")
    assert f"Of 32 rows {summary['duplicates']} are removed" in page
    assert "words 3" in page
    assert "local[" in page  # the hardware
    metrics = (output / "run.prom").read_text().splitlines()
    assert f"spark_semdedup_duplicates {summary['duplicates']}" in metrics
    assert metrics[-1] == "# EOF"


def test_the_summary_keeps_to_its_schema(output: Path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((resources.files("spark_semdedup.runs") / "summary.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    summary = json.loads((output / "out" / "summary.json").read_text())
    jsonschema.validate(summary, schema)
    described = {each.name for each in fields(Summary)} - {"counts"} | set(COUNTS) | summary.keys()
    assert described <= schema["properties"].keys()
    for name in schema["required"]:
        without = {key: value for key, value in summary.items() if key != name}
        with pytest.raises(jsonschema.ValidationError, match=name):
            jsonschema.validate(without, schema)


def test_a_report_replaces_an_earlier_one_and_nothing_else(
    capsys: pytest.CaptureFixture[str], output: Path, source: str, tmp_path: Path
):
    assert main(["report", str(output / "out"), "--texts", source]) == 0
    told = capsys.readouterr()
    assert f"report  {output}/out/report.html" in told.out
    assert "[1/1] write the report ... " in told.err
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    message = refusal(capsys, "report", output / "out", "--output", mine)
    assert message == f"--output='{mine}' exists already and is no report: give another file, or --overwrite"
    assert mine.read_text() == "mine"
    assert main(["report", str(output / "out"), "--output", str(mine), "--overwrite"]) == 0
    assert "Texts of kept rows only" in mine.read_text("utf-8")


def test_a_finished_run_that_is_resumed_writes_its_report_and_rows(output: Path, source: str):
    """The rows for Embedding Atlas in place of earlier ones, whole or not."""
    (output / "out" / "report.html").unlink()
    atlas = output / "rows.parquet"
    (atlas / "_semdedup.json").unlink()
    (atlas / "_semdedup.unfinished").touch()
    (atlas / "part-of-a-killed-run.parquet").touch()
    arguments = ["run", "--input", source, "--output", str(output / "out"), "--k", "2", "--resume", "--report"]
    assert main([*arguments, "--export-atlas", str(atlas)]) == 0
    assert (output / "out" / "report.html").exists()
    assert pq.read_table(atlas).num_rows == json.loads((atlas / "_semdedup.json").read_text())["rows"] == 32


def test_resume_replaces_no_folder_of_the_users(
    capsys: pytest.CaptureFixture[str], output: Path, source: str, tmp_path: Path
):
    mine = tmp_path / "mine.parquet"
    mine.mkdir()
    (mine / "data.parquet").write_text("mine")
    run = ("run", "--input", source, "--k", "2", "--resume", "--export-atlas", mine)
    for out in (tmp_path / "new", output / "out"):
        assert f"--export-atlas='{mine}' exists already" in refusal(capsys, *run, "--output", out)
    (mine / "_semdedup.json").write_text('{"holds": "similarities"}')  # another step's result
    assert f"--export-atlas='{mine}' exists already" in refusal(capsys, *run, "--output", tmp_path / "new")
    assert (mine / "data.parquet").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_quiet_writes_no_progress(capsys: pytest.CaptureFixture[str], output: Path):
    assert main(["report", str(output / "out"), "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "report.html" in told.out


def test_what_cannot_be_used_is_one_line_before_any_work(
    capsys: pytest.CaptureFixture[str], output: Path, source: str, tmp_path: Path
):
    out = output / "out"
    assert "does not exist" in refusal(capsys, "report", tmp_path / "none")
    assert "is not the folder of a run" in refusal(capsys, "report", source)
    assert "--text-col='words' is not among the columns" in refusal(capsys, "report", out, "--text-col", "words")
    assert "must be string" in refusal(capsys, "report", out, "--texts", source, "--text-col", "id")
    assert "--texts and --texts-table are both set" in refusal(
        capsys, "report", out, "--texts", "a", "--texts-table", "b"
    )
    assert "must end in .parquet" in refusal(capsys, "report", out, "--export-atlas", tmp_path / "rows")
    inside = out / "duplicates" / "rows.parquet"
    assert "overlaps" in refusal(capsys, "report", out, "--export-atlas", inside)
    place = ("run", "--input", source, "--output", tmp_path / "new", "--export-atlas")
    assert "overlaps" in refusal(capsys, *place, tmp_path / "new" / "duplicates" / "rows.parquet")
    run = ["run", "--input", source, "--output", tmp_path / "new"]
    assert "--model is missing: give the model to embed the texts with, or --report" in refusal(
        capsys, *run, "--text-col", "text"
    )
    assert "--text-col='none' is not among" in refusal(capsys, *run, "--report", "--text-col", "none")
    assert "cannot be used" in refusal(capsys, *run, "--metrics-prometheus", "/proc/no/such/file")
    assert not (tmp_path / "new").exists()


def test_overwriting_a_run_deletes_the_report_of_the_old_one(output: Path, source: str, tmp_path: Path):
    out = str(shutil.copytree(output / "out", tmp_path / "out"))
    assert (tmp_path / "out" / "report.html").exists()
    assert main(["run", "--input", source, "--output", out, "--k", "2", "--overwrite"]) == 0
    assert not (tmp_path / "out" / "report.html").exists()
