"""Spherical KMeans on random unit vectors: ``python benchmarks/spherical_kmeans.py`` prints Markdown.

The textbook's example: a million random unit vectors of 768 dimensions, k = 1,000, 10 iterations; by default 200,000 of
them, which a small machine holds. Three methods start from the same k rows, one after the other, each in a process of
its own:

* ours: ``spherical_kmeans``, Lloyd's iteration of the package's kernel, on a GPU where there is one;
* FAISS: ``Kmeans(spherical=True)``;
* scikit-learn: ``KMeans``, which is Euclidean: the nearest that it offers. Its centres are normalised at the end.

Similarity is the rows' mean similarity to the nearest of the final centres, computed alike for all. ``--plot`` writes
the convergence of ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

METHODS = ("ours", "faiss", "scikit-learn")
SEED = 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--plot", type=Path, help="PNG for the convergence of ours")
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args)))
        return
    results = {method: in_own_process(method) for method in args.methods}
    print(
        f"{args.rows:,} × {args.dim:,} random unit vectors, k = {args.k:,}, {args.iterations} iterations, {machine()}\n"
    )
    print_table(results)
    if "ours" in results:
        steps = ", ".join(f"{value:.4f}" for value in results["ours"]["history"])
        print(f"\nMean similarity of ours by iteration: {steps}.")
    if args.plot and "ours" in results:
        plot(args, results["ours"]["history"])


def in_own_process(method: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--only", method], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the fit, by the clock and of all cores, similarity of its centres, peak memory in GiB."""
    from spark_semdedup.kernels.lloyd import objective

    units = unit_rows(args.rows, args.dim)
    start = units[np.random.default_rng(SEED).choice(args.rows, args.k, replace=False)]
    fit = {"ours": fit_ours, "faiss": fit_faiss, "scikit-learn": fit_sklearn}[args.only]
    began, cpu = time.perf_counter(), time.process_time()
    centres, history = fit(units, start, args.iterations)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    similarity = objective(units, centres, spherical=True)
    return {"seconds": seconds, "cpu": cpu, "similarity": similarity, "peak": peak, "history": history}


def unit_rows(rows: int, dim: int) -> np.ndarray:
    """Float32 (rows, dim), directions uniform on the sphere; the same on every call."""
    units = np.empty((rows, dim), np.float32)
    rng = np.random.default_rng(SEED)
    for start in range(0, rows, 65_536):
        block = units[start : start + 65_536]
        block[:] = rng.standard_normal(block.shape, np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return units


def fit_ours(units: np.ndarray, start: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    from spark_semdedup.explore.kmeans import fit_on_sphere

    centres, history = fit_on_sphere(units, start, max_iter=iterations, tol=0.0)
    return centres, list(history)


def fit_faiss(units: np.ndarray, start: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    import faiss

    kmeans = faiss.Kmeans(
        units.shape[1],
        len(start),
        niter=iterations,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=2**31 - 1,
    )
    kmeans.train(units, init_centroids=start)
    return np.array(kmeans.centroids), [float(total) / len(units) for total in np.asarray(kmeans.obj)]


def fit_sklearn(units: np.ndarray, start: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    from sklearn.cluster import KMeans

    fit = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0).fit(units)
    return fit.cluster_centers_.copy(), []


def print_table(results: dict[str, dict[str, Any]]) -> None:
    print("| method | seconds | CPU s | mean similarity | peak GiB |\n|---|---|---|---|---|")
    for method, r in results.items():
        print(f"| {method} | {r['seconds']:.1f} | {r['cpu']:.0f} | {r['similarity']:.4f} | {r['peak']:.1f} |")


def machine() -> str:
    import os

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "faiss-cpu", "scikit-learn"))
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def plot(args: argparse.Namespace, history: list[float]) -> None:
    from spark_semdedup.explore import figures

    made, axes = figures.figure(size=(7.0, 4.2))
    axes.plot(range(1, len(history) + 1), history, "o-", color=figures.LINE)
    title = f"Spherical KMeans, k = {args.k:,}, {args.rows:,} × {args.dim} random unit vectors"
    figures.tidy(axes, title, "iteration", "mean similarity to the nearest centre")
    figures.save(made, args.plot, dpi=100)


if __name__ == "__main__":
    main()
