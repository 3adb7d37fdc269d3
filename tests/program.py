"""Calls of the program in this process, on the suite's Spark session, and its results as tests compare them."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow.parquet as pq

from spark_semdedup.cli import main as cli


def call(capsys, *arguments: object) -> tuple[int, str, list[str]]:
    """Exit status, what was printed, and the lines on stderr."""
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()


def refusal(capsys, *arguments: object, status: int = 2) -> str:
    """The one line that a call ends with; progress and warnings may stand before it."""
    got, out, err = call(capsys, *arguments)
    assert got == status, err
    assert out == ""
    lines = [line for line in err if not line.startswith(("[", "spark-semdedup: warning: "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("spark-semdedup: error: ")
    return lines[0].removeprefix("spark-semdedup: error: ")


def rows(folder: Path) -> list[tuple]:
    """All rows, sorted by id, floats as their bits."""
    read = pq.read_table(folder).to_pylist()
    exact = [tuple(struct.pack("<f", v) if isinstance(v, float) else str(v) for v in row.values()) for row in read]
    return sorted(exact)
