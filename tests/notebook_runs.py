"""Runs notebooks in a kernel of their own, and reads what they show.

    python tests/notebook_runs.py notebooks/databricks.ipynb …     # runs them, and keeps what they show in the files

What a platform gives a notebook stands in here, in a cell before its first that is not kept. Pictures of a notebook in
``GALLERY`` go to docs/images too.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

IMAGES = Path(__file__).parents[1] / "docs" / "images"

GALLERY = ("explore",)
"""Notebooks whose pictures the documentation shows, as ``docs/images/NOTEBOOK-CELL.png``."""

BEFORE = {
    "databricks": f"import sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    "from databricks_stand_in import dbutils, spark"
}
"""By the name of a notebook, the cell that stands in for its platform."""

MACHINE_PATH = re.compile(r"file:/|\b[A-Za-z]:\\+\w|(?<![\w.~:/<}-])/(?!Volumes/|usr/share/)[\w.-]+/[\w.-]")
"""An absolute path of two folders or more, except those that are alike everywhere."""


def read(name: str) -> nbformat.NotebookNode:
    """A notebook as it is committed."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(name: str, folder: Path, after: Sequence[str] = ()) -> nbformat.NotebookNode:
    """A notebook run from top to bottom in ``folder`` by this interpreter, then the cells ``after``, which are not in
    what is returned.

    With no folder to look for kernels in, ``python3`` is the interpreter that asks, whatever is registered on this
    machine under that name.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(read(name))))
    own = notebook.cells
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    before = [BEFORE[name]] if name in BEFORE else []
    notebook.cells = [nbformat.v4.new_code_cell(text) for text in before]
    notebook.cells += [*own, *(nbformat.v4.new_code_cell(text) for text in after)]
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PYSPARK_GATEWAY_PORT", "SPARK_REMOTE", "MPLBACKEND"):  # what another program may have chosen
            patch.delenv(variable, raising=False)
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))  # not the user's profile, whose startup files would run
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, km=kernel, timeout=300, record_timing=False, resources=resources).execute()
    notebook.cells = own
    for cell in code_cells(notebook):
        cell.execution_count -= len(before)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count -= len(before)
    return notebook


# --- what it shows --------------------------------------------------------------------------------------------


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What each cell printed, by its id."""
    return {
        cell.id: "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        for cell in code_cells(notebook)
    }


def number(text: str) -> int:
    return int(text.replace(",", ""))


def numbers(text: str) -> list[int]:
    return [number(found) for found in re.findall(r"\d[\d,]*", text)]


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


def assert_clean(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", (cell.id, output)
            assert output.get("name") != "stderr", (cell.id, output.text)
            assert "Warning" not in output.get("text", ""), (cell.id, output.text)


def output_kinds(cell: nbformat.NotebookNode) -> list[str]:
    """``stdout``, ``text/html``, ``image/png``, in their order; a stream may come in one piece or in several."""
    kinds = []
    for output in cell.outputs:
        data = output.get("data", {})
        kinds.append(next((kind for kind in ("image/png", "text/html") if kind in data), output.get("name", "?")))
    return [kind for kind, _ in groupby(kinds)]


def pictures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """The PNG that each cell shows, by the cell's id."""
    return {
        cell.id: base64.b64decode(output.data["image/png"])
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    }


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path.stem, Path(folder))
        nbformat.write(notebook, path)
        if path.stem in GALLERY:
            IMAGES.mkdir(parents=True, exist_ok=True)
            for cell, picture in pictures(notebook).items():
                (IMAGES / f"{path.stem}-{cell}.png").write_bytes(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
