"""How many rows per centroid to fit on, and for how many iterations: time, inertia and pair work of each choice.

    python benchmarks/fit_sample.py data/*.parquet --k 250 --rows-per-centroid 16 32 64 128 --max-iter 5 10 20

Fits FAISS's KMeans, with the package's settings, on random samples, assigns *all* rows, and prints a Markdown table.
Inertia is the mean squared distance of all rows to their nearest centroid; pair work is Σ n_c², the number of pairs
the next step compares, up to a factor. Both are relative to the best (smallest) of the same k in the table. Times
are this machine's; ratios are what matters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.settings import FitSettings
from spark_semdedup.kernels.arithmetic import unit_vectors
from spark_semdedup.params import ClusteringParams


@dataclass(frozen=True)
class Measured:
    """One choice, averaged over the seeds."""

    k: int
    rows_per_centroid: int
    max_iter: int
    iterations: float
    """Iterations done until the objective improved by less than ``tol``."""
    seconds: float
    inertia: float
    pair_work: float


def read_units(paths: Iterable[Path], column: str) -> np.ndarray:
    """The embeddings of all files as float32 unit vectors (n, d); invalid rows are not expected."""
    files = [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    tables = [pq.read_table(file, columns=[column])[column].combine_chunks() for file in files]
    return np.concatenate(
        [unit_vectors(t.flatten().to_numpy(zero_copy_only=False).reshape(len(t), -1)) for t in tables]
    )


def measure(
    x: np.ndarray, k: int, rows_per_centroid: int, max_iter: int, seeds: Sequence[int], params: dict
) -> Measured:
    """Fits once per seed, each on its own random sample; means over the seeds."""
    runs = [_run(x, k, rows_per_centroid, max_iter, seed, params) for seed in seeds]
    return Measured(k, rows_per_centroid, max_iter, *np.mean(runs, axis=0).tolist())


def _run(
    x: np.ndarray, k: int, rows_per_centroid: int, max_iter: int, seed: int, params: dict
) -> tuple[int, float, float, float]:
    rows = min(len(x), k * rows_per_centroid)
    sample = x[np.random.default_rng(seed).permutation(len(x))[:rows]]
    settings = FitSettings.from_params(ClusteringParams(maxIter=max_iter, seed=seed, **params), k)
    start = time.perf_counter()
    fit = fit_faiss(sample, settings)
    seconds = time.perf_counter() - start
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(fit.centroids)
    squared, nearest = index.search(x, 1)
    sizes = np.bincount(nearest[:, 0], minlength=k).astype(float)
    return len(fit.history), seconds, float(squared.mean()), float((sizes**2).sum())


def table(measured: Sequence[Measured]) -> str:
    """The choices as a Markdown table, relative to the best of the same k."""
    lines = [
        "| k | rows per centroid | maxIter | iterations | fit, s | inertia | pair work |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        same = [other for other in measured if other.k == m.k]
        inertia = m.inertia / min(other.inertia for other in same) - 1
        pairs = m.pair_work / min(other.pair_work for other in same) - 1
        lines.append(
            f"| {m.k} | {m.rows_per_centroid} | {m.max_iter} | {m.iterations:.1f} | {m.seconds:.2f} | "
            f"+{inertia:.1%} | +{pairs:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", nargs="+", type=Path, help="Parquet files, or folders of them")
    parser.add_argument("--embedding-col", default="embedding")
    parser.add_argument("--k", nargs="+", type=int, default=[250])
    parser.add_argument("--rows-per-centroid", nargs="+", type=int, default=[16, 32, 64, 128, 256])
    parser.add_argument("--max-iter", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--init-mode", choices=["k-means++", "random"], default="random")
    parser.add_argument("--seeds", type=int, default=3, help="number of samples and fits to average over")
    args = parser.parse_args()

    x = read_units(args.input, args.embedding_col)
    print(f"{len(x):,} rows × {x.shape[1]}, tol {args.tol}, {args.init_mode}, mean of {args.seeds} samples\n")
    params = {"tol": args.tol, "initMode": args.init_mode}
    choices = [(k, rows, n) for k in args.k for rows in args.rows_per_centroid for n in args.max_iter]
    print(table([measure(x, *choice, range(args.seeds), params) for choice in choices]))


if __name__ == "__main__":
    main()
