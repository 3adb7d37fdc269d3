"""The README and the pages say what the code does: examples run, files exist, the table of Params is the code's."""

from __future__ import annotations

import re
import shutil
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


@pytest.mark.slow
def test_python_examples_run(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").mkdir()
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as sample:
        shutil.copy(sample, tmp_path / "documents" / "part-0.parquet")
    # Unity Catalog's three-part names need a catalog; the session's own has schemas only.
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    examples = [example.replace("main.corpus.", "readme_corpus.") for example in examples]
    assert len(examples) == 3
    location = (tmp_path / "warehouse").as_uri()
    spark.sql(f"CREATE DATABASE readme_corpus LOCATION '{location}'")
    try:
        spark.read.parquet(str(tmp_path / "documents")).write.saveAsTable("readme_corpus.documents")
        names = {"spark": spark}
        for example in examples:
            example = example.replace('"documents', f'"{tmp_path}/documents')
            exec(compile(example, "README.md", "exec"), names)
        kept = spark.read.parquet(str(tmp_path / "documents-deduplicated"))
        assert kept.columns == ["id", "text", "embedding"]
        assert 0 < kept.count() < 3350
        assert spark.table("readme_corpus.documents_deduplicated").count() == kept.count()
        assert 0 < names["curated"].count() < 3350
    finally:
        spark.sql("DROP DATABASE readme_corpus CASCADE")
