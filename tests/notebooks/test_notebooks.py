"""The notebooks run from top to bottom, and what they show is true: a fresh run's outputs against brute force."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import notebook_runs
import numpy as np
import oracle
import pandas as pd
import pytest
from notebook_runs import assert_clean, code_cells, machine_paths, number, numbers, output_kinds, printed

NAMES = ("quickstart", "databricks", "etl_pipeline", "text", "explore")
EPS = 0.05
WAYS = ("hard", "easy", "first")

KEEP_FACTS = """
import json

similarities.to_parquet("similarities.parquet")
np.save("centroids.npy", model.centroids)
with open("facts.json", "w") as file:
    json.dump({"kept": {way: sorted(ids) for way, ids in kept_by.items()}, "group": group}, file)
"""
"""Run after the notebook's last cell, so that what it found can be compared in full."""


# --- the committed files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return notebook_runs.read("quickstart")


def test_all_notebooks_are_tested():
    assert sorted(path.stem for path in notebook_runs.NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_was_run_in_order_and_is_small(name):
    cells = code_cells(notebook_runs.read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert (notebook_runs.NOTEBOOKS / f"{name}.ipynb").stat().st_size < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_tells_nothing_of_a_machine(name):
    notebook = notebook_runs.read(name)
    assert machine_paths(notebook) == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_have_no_warnings_or_errors(name):
    assert_clean(notebook_runs.read(name))


@pytest.mark.parametrize("name", NAMES)
def test_files_the_notebook_names_exist(name):
    text = "".join(cell.source for cell in notebook_runs.read(name).cells if cell.cell_type == "markdown")
    linked = re.findall(r"\]\(([^)#]+)\)", text)
    assert linked
    for target in linked:
        assert (notebook_runs.NOTEBOOKS / target).exists(), target


@pytest.mark.parametrize(
    "text",
    ["file:/a", "'/home/ann/x'", "(/root/.venv/lib)", "a\n/tmp/ipython", r"C:\Users", "see /Users/ann/x", "/dbfs/tmp"],
)
def test_paths_of_a_machine_are_recognised(text):
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=text)])
    assert machine_paths(nbformat.v4.new_notebook(cells=[cell])) == [text]


@pytest.mark.parametrize(
    "text", ["/Volumes/main/corpus", "https://a.org/home/x", "../README.md", "a/b/c", "</td></tr>", "{work}/kept/x"]
)
def test_other_paths_are_not_taken_for_a_machine_s(text):
    assert notebook_runs.MACHINE_PATH.search(text) is None


def test_committed_counts_add_up(committed):
    shown = Shown.of(committed)
    assert shown.rows == shown.kept + shown.removed
    assert shown.removed == shown.removed_at[EPS]
    assert shown.common["hard", "hard"] == shown.kept == shown.loaded == shown.remaining


# --- what the quickstart's outputs say ----------------------------------------------------------------------


class Pair(NamedTuple):
    score: str
    kept: str
    removed: str


class Shown(NamedTuple):
    """The numbers and names a reader sees, read from the outputs by the ids of their cells."""

    rows: int
    kept: int
    removed: int
    pairs: int
    clusters: int
    all_pairs: int
    removed_at: dict[float, int]
    common: dict[tuple[str, str], int]
    loaded: int
    remaining: int
    side_by_side: list[Pair]
    group: dict[str, list[str]]

    @classmethod
    def of(cls, notebook: nbformat.NotebookNode) -> Shown:
        text, html = printed(notebook), {}
        for cell in code_cells(notebook):
            html[cell.id] = "".join(o.data.get("text/html", "") for o in cell.outputs if "data" in o)
        counts = numbers(text["counts"])
        removed_at = re.findall(r"eps (0\.\d+): ([\d,]+) removed", text["eps"])
        loaded, before = re.findall(r"[\d,]+\d", text["save"].splitlines()[1])
        assert loaded == before
        assert text["stages"].splitlines()[-1].endswith("the same as before: True")
        common = [number(found) for found in re.findall(r"<td[^>]*>(\d+)</td>", html["which"])]
        return cls(
            *counts,
            removed_at={float(eps): number(found) for eps, found in removed_at},
            common=dict(zip([(one, other) for one in WAYS for other in WAYS], common, strict=True)),
            loaded=number(loaded),
            remaining=number(text["stages"].splitlines()[-1].split()[0]),
            side_by_side=[Pair(*found) for found in _SIDE_BY_SIDE.findall(html["pairs"])],
            group={id_: re.findall(r"<td[^>]*>(kept|)</td>", row) for id_, row in _GROUP_ROW.findall(html["group"])},
        )


_SIDE_BY_SIDE = re.compile(
    r"<td[^>]*>(\d\.\d{4})</td>\s*<td[^>]*><code>([^<]+)</code>.*?</td>\s*<td[^>]*><code>([^<]+)</code>", re.DOTALL
)
_GROUP_ROW = re.compile(r"<tr>\s*<th[^>]*>([^<]+)</th>(.*?)</tr>", re.DOTALL)


# --- a fresh run --------------------------------------------------------------------------------------------


class Run(NamedTuple):
    notebook: nbformat.NotebookNode
    folder: Path
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The quickstart run by this interpreter in an empty folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    notebook = notebook_runs.execute("quickstart", folder, after=[KEEP_FACTS])
    return Run(notebook, folder, json.loads((folder / "facts.json").read_text()))


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        return pd.read_parquet(path)


class Truth(NamedTuple):
    """The oracle's answer for the centroids that the run fitted."""

    cluster_sizes: np.ndarray
    found: dict[str, oracle.Similarities]

    def removed(self, way: str, eps: float) -> np.ndarray:
        return oracle.duplicates(self.found[way], eps)


@pytest.fixture(scope="module")
def truth(run, sample) -> Truth:
    ids = sample["id"].tolist()
    units = oracle.unit_vectors(np.stack(sample["embedding"].to_numpy()))
    assigned = oracle.assignment(units, np.load(run.folder / "centroids.npy"))
    inside = oracle.clusters(units, assigned.centroid)
    orders = {
        "hard": oracle.order_hard(ids, assigned.cosine_dist_to_cent),
        "easy": oracle.order_easy(ids, assigned.cosine_dist_to_cent),
        "first": oracle.order_first(ids),
    }
    sizes = np.array([len(cluster.members) for cluster in inside])
    return Truth(sizes, {way: oracle.ranked(inside, order) for way, order in orders.items()})


@pytest.mark.slow
def test_notebook_runs_without_warnings_and_shows_what_is_committed(run, committed):
    assert_clean(run.notebook)
    fresh = {cell.id: output_kinds(cell) for cell in code_cells(run.notebook)}
    assert fresh == {cell.id: output_kinds(cell) for cell in code_cells(committed)}
    assert fresh["scores"] == ["image/png"]
    assert fresh["eps"] == ["image/png", "stdout"]
    assert machine_paths(run.notebook) == []


@pytest.mark.slow
def test_similarities_are_brute_force_s_to_the_bit(run, sample, truth):
    found = pd.read_parquet(run.folder / "similarities.parquet").set_index("id").loc[sample["id"]]
    ids = sample["id"].to_numpy()
    assert found["max_id"].tolist() == ids[truth.found["hard"].neighbour].tolist()
    assert oracle.same_bits(found["cosine_sim_score"].to_numpy(), truth.found["hard"].score)


@pytest.mark.slow
def test_rows_kept_by_each_way_are_brute_force_s(run, sample, truth):
    ids = sample["id"].to_numpy()
    assert run.facts["kept"] == {way: sorted(ids[~truth.removed(way, EPS)].tolist()) for way in WAYS}


@pytest.mark.slow
def test_counts_shown_are_brute_force_s(run, sample, truth):
    shown, rows, sizes = Shown.of(run.notebook), len(sample), truth.cluster_sizes
    removed = truth.removed("hard", EPS).sum()
    assert shown[:3] == (rows, rows - removed, removed)
    assert shown[3:6] == ((sizes * (sizes - 1) // 2).sum(), len(sizes), rows * (rows - 1) // 2)
    assert (shown.loaded, shown.remaining) == (rows - removed, rows - removed)
    assert len(shown.removed_at) == 6
    assert shown.removed_at == {eps: truth.removed("hard", eps).sum() for eps in shown.removed_at}
    kept = {way: ~truth.removed(way, EPS) for way in WAYS}
    assert shown.common == {(one, other): (kept[one] & kept[other]).sum() for one in WAYS for other in WAYS}


@pytest.mark.slow
def test_pairs_shown_are_kept_and_removed_rows_of_different_texts(run, sample, truth):
    position = {id_: i for i, id_ in enumerate(sample["id"])}
    text = sample.set_index("id")["text"]
    found, removed = truth.found["hard"], truth.removed("hard", EPS)
    pairs = Shown.of(run.notebook).side_by_side
    assert len(pairs) == 8
    assert [pair.score for pair in pairs] == sorted((pair.score for pair in pairs), reverse=True)
    for score, kept, gone in pairs:
        assert removed[position[gone]]
        assert not removed[position[kept]]
        assert found.neighbour[position[gone]] == position[kept]
        assert f"{found.score[position[gone]]:.4f}" == score
        assert text[kept] != text[gone]


@pytest.mark.slow
def test_group_shown_is_kept_as_the_table_says(run, sample, truth):
    position = {id_: i for i, id_ in enumerate(sample["id"])}
    group = Shown.of(run.notebook).group
    assert sorted(group) == run.facts["group"]
    assert len(group) >= 3
    for id_, marks in group.items():
        assert marks == ["" if truth.removed(way, EPS)[position[id_]] else "kept" for way in WAYS], id_
