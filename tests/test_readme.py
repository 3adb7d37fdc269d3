"""The README and the pages say what the code does: examples run, files exist, the table of Params is the code's."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import resources
from pathlib import Path

import pytest

from tools.param_table import PAGE, STAGES, param_table, updated

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *(ROOT / name / "README.md" for name in ("conf", "notebooks"))]
PATH = re.compile(r"`((?:jobs|conf|docs|notebooks|benchmarks|tests|tools|spark_semdedup)/[\w./-]*)`")
"""A path of the repository in a page, as code."""


def test_the_page_of_params_is_up_to_date():
    page = PAGE.read_text("utf-8")
    assert updated(page) == page, "run: python tools/param_table.py"


def test_every_param_of_every_stage_is_in_the_table():
    rows = param_table().splitlines()[2:]
    row_of = {re.match(r"\| `(\w+)` \|", row)[1]: row for row in rows}
    for letter, stage in STAGES.items():
        for param in stage().params:
            assert re.search(rf"\| [A-Z ]*{letter}[A-Z ]* \|", row_of[param.name]), (stage, param.name)


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_a_page_names_exist(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for path in {*PATH.findall(text), *re.findall(r"\b(?:jobs|conf)/\w[\w./-]*\.\w+", text)}:
        assert (ROOT / path).exists(), path


def examples(page: Path, kind: str = "python") -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def test_the_worked_example_runs():
    (example,) = examples(ROOT / "docs" / "how-it-works.md")
    exec(compile(example, "how-it-works.md", "exec"), {})


@pytest.fixture
def documents(spark, tmp_path) -> Path:
    """The folder ``documents`` of the examples: the sample."""
    (tmp_path / "documents").mkdir()
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as sample:
        shutil.copy(sample, tmp_path / "documents" / "part-0.parquet")
    return tmp_path / "documents"


@pytest.mark.slow
def test_the_quickstart_runs(documents, monkeypatch, capsys):
    names: dict[str, object] = {}
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    for example in examples(ROOT / "docs" / "quickstart.md"):
        example = re.sub(r'"(documents|deduplicated)"', rf'"{documents.parent}/\1"', example)
        exec(compile(example, "quickstart.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "{'rows': 3350, 'invalid': 0, 'clusters': 58, 'pairs': " in printed
    assert len(re.findall(r"^\| *0[.]95", printed, re.MULTILINE)) == 5  # the duplicates just above the threshold


@pytest.mark.slow
def test_the_stages_of_the_api_page_run(spark, documents):
    (example,) = examples(ROOT / "docs" / "python-api.md")
    names = {"documents": spark.read.parquet(str(documents))}
    exec(compile(example, "python-api.md", "exec"), names)
    assert 0 < names["kept"].count() < 3350


@pytest.mark.slow
def test_python_examples_run(spark, documents, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # as the first example does
    # Unity Catalog's three-part names need a catalog; the session's own has schemas only.
    blocks = [example.replace("main.corpus.", "readme_corpus.") for example in examples(README)]
    assert len(blocks) == 3
    location = (tmp_path / "warehouse").as_uri()
    spark.sql(f"CREATE DATABASE readme_corpus LOCATION '{location}'")
    try:
        spark.read.parquet(str(documents)).write.saveAsTable("readme_corpus.documents")
        names = {"spark": spark}
        for example in blocks:
            example = example.replace('"documents', f'"{tmp_path}/documents')
            exec(compile(example, "README.md", "exec"), names)
        kept = spark.read.parquet(str(tmp_path / "documents-deduplicated"))
        assert kept.columns == ["id", "text", "embedding"]
        assert 0 < kept.count() < 3350
        assert spark.table("readme_corpus.documents_deduplicated").count() == kept.count()
        assert 0 < names["curated"].count() < 3350
    finally:
        spark.sql("DROP DATABASE readme_corpus CASCADE")
