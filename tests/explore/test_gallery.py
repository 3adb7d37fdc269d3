"""The gallery notebook runs from top to bottom; its pictures are those of the documentation; so does the benchmark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_runs
import pytest
from notebook_runs import assert_clean, code_cells, machine_paths, output_kinds, printed

ROOT = Path(__file__).parents[2]
MOST_BYTES = 150_000


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return notebook_runs.read("explore")


def test_the_documentation_shows_the_notebook_s_pictures(committed):
    shown = {f"explore-{cell}.png": picture for cell, picture in notebook_runs.pictures(committed).items()}
    kept = {path.name: path.read_bytes() for path in notebook_runs.IMAGES.glob("explore-*.png")}
    assert kept == shown
    assert len(shown) == 8


def test_pictures_are_small_and_each_is_used():
    page = (ROOT / "docs" / "explore.md").read_text()
    pictures = [*notebook_runs.IMAGES.glob("explore-*.png"), notebook_runs.IMAGES / "spherical-benchmark.png"]
    for path in pictures:
        assert path.stat().st_size < MOST_BYTES, path.name
        assert f"](images/{path.name})" in page, path.name


def test_topics_of_the_page_are_those_of_the_notebook(committed):
    page = (ROOT / "docs" / "explore.md").read_text()
    topics = re.findall(r"^ +(\d+) rows  (.+)$", printed(committed)["topics"], re.MULTILINE)
    assert len(topics) == 10
    for rows, label in topics:
        assert f"| {rows} | {label} |" in page


@pytest.mark.slow
def test_the_notebook_runs(committed, tmp_path):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    run = notebook_runs.execute("explore", tmp_path)
    assert_clean(run)
    assert {c.id: output_kinds(c) for c in code_cells(run)} == {c.id: output_kinds(c) for c in code_cells(committed)}
    assert machine_paths(run) == []
    text = printed(run)
    assert "144 clusters" in text["density"]
    assert "150 rows around lib32gfortran" in text["communities"]
    assert "python" in text["topics"]


@pytest.mark.slow
def test_the_benchmark_of_spherical_kmeans_finds_the_same_for_all(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "spherical_kmeans.py"), "--rows", "3000", "--dim", "16"]
    command += ["--k", "20", "--iterations", "4", "--plot", str(tmp_path / "c.png")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| ([\w-]+) \| [\d.]+ \| \d+ \| ([\d.]+) \|", shown, re.MULTILINE)
    assert [name for name, _ in rows] == ["ours", "faiss", "scikit-learn"]
    ours, faiss, sklearn = (float(similarity) for _, similarity in rows)
    assert ours == pytest.approx(faiss, abs=2e-4)
    assert ours == pytest.approx(sklearn, abs=0.01)
    assert (tmp_path / "c.png").exists()
