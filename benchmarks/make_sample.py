"""Makes the sample that is shipped with the package: a small part of a corpus that keeps its near-duplicates.

    python benchmarks/make_sample.py --input CORPUS --pairs PAIRS.parquet --output sample.parquet

Rows drawn one by one would lose nearly all duplicates: of a pair, both rows are drawn with the square of the
probability. So whole *groups* are drawn: the connected components of the graph whose edges are the pairs in
PAIRS (a row without a pair is a group of its own). A group is named by its lowest id, groups are ordered by the
SHA-256 of that name, and taken in this order as long as the next one still fits into ``--rows``. The choice
depends on the ids and pairs alone: not on the order of rows or files, nor on a random generator's version.

The same input and the same version of pyarrow give the same bytes (the version is written into the file).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ("id", "text", "embedding")


def groups_of(ids: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Connected components: from each group's lowest id to its sorted ids. An unknown id in a pair is a KeyError.

    >>> groups_of(["a", "b", "c", "d"], [("d", "b")])
    {'a': ['a'], 'b': ['b', 'd'], 'c': ['c']}
    """
    parent = {row: row for row in ids}

    def root(row: str) -> str:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    groups: dict[str, list[str]] = {}
    for row in sorted(parent):
        groups.setdefault(root(row), []).append(row)
    return groups


def draw(groups: dict[str, list[str]], rows: int) -> list[str]:
    """Sorted ids of the groups that come first by the SHA-256 of their name, at most ``rows`` ids."""
    drawn: list[str] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(drawn) + len(groups[name]) > rows:
            break
        drawn += groups[name]
    return sorted(drawn)


def write_sample(corpus: pa.Table, drawn: Sequence[str], output: Path) -> None:
    """Writes the drawn rows, by id, with encodings that every Parquet reader of the last decade knows."""
    order = pc.index_in(pa.array(drawn), corpus["id"].combine_chunks())
    table = corpus.select(COLUMNS).take(order).combine_chunks().replace_schema_metadata(None)
    pq.write_table(table, output, compression="zstd", compression_level=19, use_dictionary=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw a sample that keeps whole groups of near-duplicates.")
    parser.add_argument("--input", required=True, type=Path, help="Parquet file or folder: id, text, embedding")
    parser.add_argument("--pairs", required=True, type=Path, help="Parquet file of similar pairs: id_a, id_b")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    parser.add_argument("--rows", type=int, default=3350, help="rows at most (default: %(default)s)")
    options = parser.parse_args(arguments)

    corpus = pq.read_table(options.input, columns=list(COLUMNS))
    pairs = pq.read_table(options.pairs, columns=["id_a", "id_b"])
    groups = groups_of(corpus["id"].to_pylist(), zip(*(column.to_pylist() for column in pairs.columns), strict=True))
    drawn = draw(groups, options.rows)
    write_sample(corpus, drawn, options.output)

    chosen = set(drawn)
    grouped = sum(len(rows) for rows in groups.values() if len(rows) > 1 and rows[0] in chosen)
    digest = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(f"{options.output}: {len(drawn)} rows, {grouped} of them in groups, {options.output.stat().st_size} bytes")
    print(f"sha256 {digest} (pyarrow {pa.__version__})")


if __name__ == "__main__":
    main()
