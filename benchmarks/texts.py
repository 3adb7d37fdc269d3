"""Embeds the lines of a text file for benchmarks: ``texts.py LINES.txt OUT --model FOLDER [--rows 64000 256000]``.

Each line is a text; blank ones are left out. Writes ``OUT/ROWS/part-….parquet`` with ``id`` (string) and ``embedding``
(float32 list) by a static Model2Vec model: all texts, and for each of ``--rows`` so many of them, drawn with a seed. A
smaller corpus is part of a larger one, so growth with rows is that of one population.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 50_000


def embedded(lines: list[str], model: Path) -> np.ndarray:
    """Float32 (n, d), as the model gives them."""
    from model2vec import StaticModel

    return np.asarray(StaticModel.from_pretrained(model).encode(lines), np.float32)


def write(folder: Path, rows: np.ndarray, x: np.ndarray) -> None:
    """The ``rows`` of ``x`` with their numbers, as strings, for ids."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
        some = rows[start : start + ROWS_PER_FILE]
        offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * x.shape[1])
        vectors = pa.ListArray.from_arrays(offsets, pa.array(x[some].ravel()))
        table = pa.table({"id": pa.array([f"line-{row:09d}" for row in some]), "embedding": vectors})
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    args = parser.parse_args()
    with open(args.lines, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    x = embedded(lines, args.model)
    x = x[np.linalg.norm(x, axis=1) > 0]  # texts without a word that the model knows
    order = np.random.default_rng(0).permutation(len(x))
    for rows in sorted({*args.rows, len(x)}):
        write(args.out / str(rows), order[:rows], x)


if __name__ == "__main__":
    main()
