"""The quickstart runs from top to bottom, and what it shows is true: a fresh run's outputs against brute force."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import numpy as np
import oracle
import pandas as pd
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"
EPS = 0.05
WAYS = ("hard", "easy", "first")

MACHINE_PATH = re.compile(r"file:/|\b[A-Za-z]:\\+\w|(?<![\w.~:/<-])/(?!Volumes/|usr/share/)[\w.-]+/[\w.-]")
"""An absolute path of two folders or more, except those that are alike everywhere."""

KEEP_FACTS = """
import json

similarities.to_parquet("similarities.parquet")
np.save("centroids.npy", model.centroids)
with open("facts.json", "w") as file:
    json.dump({"kept": {way: sorted(ids) for way, ids in kept_by.items()}, "group": group}, file)
"""
"""Run after the notebook's last cell, so that what it found can be compared in full."""


# --- the committed file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def strings(node: Any) -> Iterator[str]:
    """Every text in the file. Pictures are left out: in base64 any letters may stand side by side."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key != "image/png":
                yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def machine_paths(notebook: nbformat.NotebookNode) -> list[str]:
    return [text for text in strings(notebook) if MACHINE_PATH.search(text)]


def test_committed_notebook_was_run_in_order_and_is_small(committed):
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    assert NOTEBOOK.stat().st_size < 300_000


def test_committed_notebook_tells_nothing_of_a_machine(committed):
    assert machine_paths(committed) == []
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert committed.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in committed.cells)


@pytest.mark.parametrize(
    "text",
    ["file:/a", "'/home/ann/x'", "(/root/.venv/lib)", "a\n/tmp/ipython", r"C:\Users", "see /Users/ann/x", "/dbfs/tmp"],
)
def test_paths_of_a_machine_are_recognised(text):
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=text)])
    assert machine_paths(nbformat.v4.new_notebook(cells=[cell])) == [text]


@pytest.mark.parametrize(
    "text", ["/Volumes/main/corpus", "https://a.org/home/x", "../README.md", "a/b/c", "</td></tr>"]
)
def test_other_paths_are_not_taken_for_a_machine_s(text):
    assert MACHINE_PATH.search(text) is None


def test_committed_outputs_have_no_warnings_or_errors(committed):
    assert_clean(committed)


def test_committed_counts_add_up(committed):
    shown = Shown.of(committed)
    assert shown.rows == shown.kept + shown.removed
    assert shown.removed == shown.removed_at[EPS]
    assert shown.common["hard", "hard"] == shown.kept == shown.loaded == shown.remaining


def assert_clean(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", (cell.id, output)
            assert output.get("name") != "stderr", (cell.id, output.text)
            assert "Warning" not in output.get("text", ""), (cell.id, output.text)


# --- what the outputs say -----------------------------------------------------------------------------------


def output_kinds(cell: nbformat.NotebookNode) -> list[str]:
    """``stdout``, ``text/html``, ``image/png``, in their order; a stream may come in one piece or in several."""
    kinds = []
    for output in cell.outputs:
        data = output.get("data", {})
        kinds.append(next((kind for kind in ("image/png", "text/html") if kind in data), output.get("name", "?")))
    return [kind for kind, _ in groupby(kinds)]


def number(text: str) -> int:
    return int(text.replace(",", ""))


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
        text, html = {}, {}
        for cell in code_cells(notebook):
            text[cell.id] = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
            html[cell.id] = "".join(o.data.get("text/html", "") for o in cell.outputs if "data" in o)
        counts = [number(found) for found in re.findall(r"\d[\d,]*", text["counts"])]
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
def run(committed, tmp_path_factory) -> Run:
    """The notebook run by this interpreter in an empty folder.

    With no folder to look for kernels in, ``python3`` is the interpreter that asks, whatever is registered on this
    machine under that name.
    """
    folder = tmp_path_factory.mktemp("quickstart")
    notebook = nbformat.from_dict(json.loads(json.dumps(committed)))
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(KEEP_FACTS))
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYSPARK_GATEWAY_PORT", "SPARK_REMOTE", "MPLBACKEND"):  # what another program may have chosen
            patch.delenv(name, raising=False)
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))  # not the user's profile, whose startup files would run
        resources_ = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, km=kernel, timeout=300, record_timing=False, resources=resources_).execute()
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
    fresh = {cell.id: output_kinds(cell) for cell in code_cells(run.notebook)[:-1]}
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
