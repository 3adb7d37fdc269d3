"""docs/text.md and notebooks/text.ipynb do what they say, compared with brute force."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import notebook_runs
import numpy as np
import pandas as pd
import pytest
from notebook_runs import assert_clean, code_cells, machine_paths, numbers, output_kinds, printed

from spark_semdedup.cli.main import make_parser
from spark_semdedup.text.hashing import HashingModel

GUIDE = Path(__file__).parents[2] / "docs" / "text.md"

EPS = 0.2


class Truth(NamedTuple):
    """What the notebook must show."""

    documents: int
    kept: int
    removed: int
    equal: int
    distinct: int


@pytest.fixture(scope="module")
def truth() -> Truth:
    """By brute force: a document goes if one of lower id is similar enough."""
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        sample = pd.read_parquet(path, columns=["id", "text"]).head(1200)
    texts = dict(zip(sample["id"], sample["text"], strict=True)) | {"repeated": sample["text"][0]}
    ids = sorted(texts, key=str.encode)
    model = HashingModel(256)
    vectors = model.embed(model.tokenize([texts[id_] for id_ in ids])).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = np.tril(vectors @ vectors.T, -1)
    neighbour = similar.argmax(axis=1)
    gone = similar.max(axis=1) >= 1 - EPS
    equal = sum(texts[ids[i]] == texts[ids[neighbour[i]]] for i in np.flatnonzero(gone))
    kept = len(texts) + 2 - int(gone.sum())
    return Truth(len(texts) + 2, kept, int(gone.sum()), equal, len(set(texts.values())))


def assert_shows(notebook, truth: Truth) -> None:
    text = printed(notebook)
    assert numbers(text["data"].splitlines()[0]) == [truth.documents]
    assert numbers(text["pipeline"]) == [truth.kept, truth.documents]
    assert numbers(text["counts"].splitlines()[0]) == [truth.documents, 1, 1, 0]
    assert numbers(text["report"].splitlines()[0]) == [truth.removed, truth.equal]
    (embedded,) = numbers(text["counts"].splitlines()[1])
    assert truth.distinct <= embedded <= truth.documents - 2


def test_the_committed_notebook_shows_brute_force_s_counts(truth):
    assert_shows(notebook_runs.read("text"), truth)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_them_again(tmp_path, truth):
    notebook = notebook_runs.execute("text", tmp_path)
    assert_clean(notebook)
    assert machine_paths(notebook) == []
    assert_shows(notebook, truth)
    committed = {cell.id: output_kinds(cell) for cell in code_cells(notebook_runs.read("text"))}
    assert {cell.id: output_kinds(cell) for cell in code_cells(notebook)} == committed


def test_the_guide_s_commands_can_be_parsed():
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    commands = [command for block in blocks for command in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "spark-semdedup"
        make_parser().parse_args(arguments)


def test_the_guide_s_options_and_files_exist():
    text = GUIDE.read_text()
    options = {option for action in all_options() for option in action.option_strings}
    of_spark = {"--archives"}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert option in options | of_spark, option
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (GUIDE.parent / target).exists(), target


def all_options():
    (commands,) = (action for action in make_parser()._actions if action.dest == "command")
    return [action for parser in commands.choices.values() for action in parser._actions]


@pytest.mark.slow
def test_the_guide_s_python_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = [{"id": str(i), "text": text} for i, text in enumerate(["one text", "one text", "another", None])]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, documents)))
    names = {"spark": spark}
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        for name in ("documents.jsonl", "kept"):
            example = example.replace(f'"{name}"', repr(str(tmp_path / name)))
        exec(compile(example, "text.md", "exec"), names)
    kept = pd.concat(pd.read_json(part, lines=True) for part in (tmp_path / "kept").glob("part-*"))
    assert len(kept) == 3
    assert list(kept.columns) == ["id", "text"]
    assert len(names["embedded"].first()["embedding"]) == 12
