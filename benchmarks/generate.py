"""Makes embeddings of any number of documents, with a known share of near copies: ``generate.py OUT --rows 1000000``.

Seeded, so that a size always gives the same rows. Documents are drawn around topics whose sizes follow a gamma
distribution (the largest about 3 × the mean, as clusters of real corpora have); the variance of a document around its
topic falls off along the dimensions as it does in sentence embeddings, so distinct documents lie at cosines of about
0.2 to 0.8. A share of the rows are copies: a document of the same corpus, turned away from it to a cosine drawn
uniformly from [0.9, 1).

Columns: ``id`` (bigint), ``embedding`` (float32 list), ``copy_of`` (bigint; null for an original) and ``cosine``.
Copies stand anywhere, often in another file than their original.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_TOPIC = 1000
TOPIC_SHARE = 0.35
"""Share of a document's squared norm that its topic accounts for: the cosine of two documents of one topic."""
LEAST_COSINE = 0.9


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def documents(rng: np.random.Generator, topics: np.ndarray, n: int, weights: np.ndarray) -> np.ndarray:
    """n original documents: unit float32 (n, d)."""
    d = topics.shape[1]
    spectrum = (np.arange(d) + 8.0) ** -0.5
    spectrum /= np.sqrt((spectrum**2).sum())
    own = rng.choice(len(topics), n, p=weights)
    x = np.sqrt(TOPIC_SHARE) * topics[own]
    x += np.sqrt(1 - TOPIC_SHARE) * rng.standard_normal((n, d), np.float32) * spectrum.astype(np.float32)
    return unit(x)


def copies(rng: np.random.Generator, originals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A near copy of each row, and its cosine."""
    n, d = originals.shape
    cosine = rng.uniform(LEAST_COSINE, 1.0, n)
    away = rng.standard_normal((n, d), np.float32)
    away -= (away * originals).sum(axis=1, keepdims=True) * originals
    x = cosine[:, None] * originals + np.sqrt(1 - cosine[:, None] ** 2) * unit(away)
    return unit(x).astype(np.float32), cosine


def flat(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """n topics, none nearer to another than to all."""
    return unit(rng.standard_normal((n, dim), np.float32))


def hierarchy(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """About n topics, the leaves of a tree of fours whose levels all add as much: near, less near and far ones."""
    levels = max(1, round(math.log(n, 4)))
    leaves = np.arange(4**levels)
    parts = [rng.standard_normal((4**level, dim), np.float32) for level in range(1, levels + 1)]
    return unit(sum(part[leaves // 4 ** (levels - 1 - i)] for i, part in enumerate(parts)))


def generate(
    out: Path,
    rows: int,
    dim: int,
    copy_share: float,
    seed: int,
    rows_per_file: int = 50_000,
    topics_of: Callable[[np.random.Generator, int, int], np.ndarray] = flat,
    n_topics: int | None = None,
) -> None:
    """Writes the corpus as Parquet files of ``rows_per_file`` rows. Memory: one file and one pool of originals."""
    rng = np.random.default_rng(seed)
    topics = topics_of(rng, n_topics or max(1, rows // ROWS_PER_TOPIC), dim)
    weights = rng.gamma(2.0, size=len(topics))
    weights /= weights.sum()
    ids = rng.permutation(rows).astype(np.int64)
    out.mkdir(parents=True)
    pool = pool_ids = None  # originals of the files before, from which copies are made
    for number, start in enumerate(range(0, rows, rows_per_file)):
        n = min(rows_per_file, rows - start)
        n_copies = 0 if pool is None else int(n * copy_share)
        x = documents(rng, topics, n - n_copies, weights)
        own = ids[start : start + n]
        copy_of, cosine = np.full(n, -1, np.int64), np.full(n, np.nan)
        if n_copies:
            source = rng.integers(0, len(pool), n_copies)
            near, cosine[n - n_copies :] = copies(rng, pool[source])
            copy_of[n - n_copies :] = pool_ids[source]
            x = np.concatenate([x, near])
        pool, pool_ids = _refresh(rng, pool, pool_ids, x[: n - n_copies], own[: n - n_copies])
        order = rng.permutation(n)
        _write(out / f"part-{number:05d}.parquet", own[order], x[order], copy_of[order], cosine[order])


def _refresh(rng, pool, pool_ids, x, own):  # type: ignore[no-untyped-def]
    """A pool of bounded size in which every earlier file has a part."""
    if pool is None:
        return x.copy(), own.copy()
    replaced = rng.choice(len(pool), len(pool) // 4, replace=False)
    taken = rng.choice(len(x), len(replaced), replace=len(x) < len(replaced))
    pool[replaced], pool_ids[replaced] = x[taken], own[taken]
    return pool, pool_ids


def _write(path: Path, ids: np.ndarray, x: np.ndarray, copy_of: np.ndarray, cosine: np.ndarray) -> None:
    n, d = x.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * d)
    original = copy_of < 0
    table = pa.table(
        {
            "id": ids,
            "embedding": pa.ListArray.from_arrays(offsets, pa.array(x.ravel().astype(np.float32))),
            "copy_of": pa.array(copy_of, mask=original),
            "cosine": pa.array(cosine, mask=original),
        }
    )
    pq.write_table(table, path, row_group_size=10_000, compression="zstd", use_dictionary=["copy_of"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--copy-share", type=float, default=0.2, help="share of rows that are near copies")
    parser.add_argument("--topics", type=int, help="number of topics (default: a thousandth of the rows)")
    parser.add_argument("--hierarchy", action="store_true", help="topics of topics, on all scales")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    topics_of = hierarchy if args.hierarchy else flat
    generate(args.out, args.rows, args.dim, args.copy_share, args.seed, topics_of=topics_of, n_topics=args.topics)


if __name__ == "__main__":
    main()
