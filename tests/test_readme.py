"""The README says what the code does: its examples run, its table of Params is the code's."""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from tools.param_table import STAGES, param_table

README = Path(__file__).parent.parent / "README.md"


def test_the_table_of_params_is_made_from_the_code():
    assert param_table() in README.read_text()


def test_every_param_of_every_stage_stands_in_the_table():
    rows = param_table().splitlines()[2:]
    named = {re.match(r"\| `(\w+)` \|", row)[1]: row for row in rows}
    for letter, stage in STAGES.items():
        for param in stage().params:
            assert re.search(rf"\| [A-Z ]*{letter}[A-Z ]* \|", named[param.name]), (stage, param.name)


def test_files_the_readme_names_exist():
    root = README.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("https://") or (root / target).exists(), target
    for path in re.findall(r"\b(?:jobs|conf)/\w[\w.-]*\.\w+", README.read_text()):
        assert (root / path).exists(), path


@pytest.mark.slow
def test_python_examples_run(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").mkdir()
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as sample:
        shutil.copy(sample, tmp_path / "documents" / "part-0.parquet")
    # Unity Catalog's three-part names need a catalog; the session's own has schemas only.
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    examples = [example.replace("main.corpus.", "readme_corpus.") for example in examples]
    assert len(examples) == 5
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
