"""The pairwise kernel on one GPU against what it replaces: ``python benchmarks/gpu_kernel.py`` prints Markdown.

Needs NumPy and CuPy, and PyTorch as the yardstick (without it those columns stay empty); neither Spark nor Java. Ends
within five minutes on an H200. Before anything is timed the answers are compared, bit by bit; where they differ, the
program says so and ends with 1.

For d = 384, 768, 1,024 and N = 10k, 50k, 200k unit vectors with a tenth of near copies, in rank order:

* ours: ``ranked_max_similarity``, screening in float16 and in float32; both give the exact answer;
* products alone: ours in float16 without what follows each product, so the difference is what that costs;
* torch half, torch float32: per batch one ``torch.mm`` with all rows, a triangular mask, ``torch.max``, the pipeline
  that pairwise steps usually are (its float16 answer differs: rows that it decides otherwise are counted);
* the ceiling: the fastest of a few large half-precision products with inner dimension d, in floating-point operations
  per second. A kernel that multiplies only the half of the square that counts needs N² d of them.

Times are medians over repeats, by device events, after a warm-up.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spark_semdedup.kernels import ranked_max_similarity, unit_vectors
from spark_semdedup.kernels.cuda import launch as cuda

try:
    import torch
except ImportError:
    torch = None

BATCH = 1024
EPS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768, 1024])
    args = parser.parse_args()

    import cupy as cp

    print(machine(cp) + "\n")
    if not print_checks(cp):
        raise SystemExit(1)
    print_times(cp, args.dims, args.rows)
    print_shapes(cp)


def machine(cp) -> str:  # type: ignore[no-untyped-def]
    properties = cp.cuda.runtime.getDeviceProperties(0)
    runtime = cp.cuda.runtime.runtimeGetVersion()
    versions = [
        f"CUDA {runtime // 1000}.{runtime % 1000 // 10}",
        f"driver {cp.cuda.runtime.driverGetVersion()}",
        f"CuPy {cp.__version__}",
        f"PyTorch {torch.__version__ if torch else '–'}",
        f"NumPy {np.__version__}",
        f"Python {platform.python_version()}",
    ]
    name = f"{properties['name'].decode()}, {properties['multiProcessorCount']} processors"
    cache = f"{properties['l2CacheSize'] / 2**20:.0f} MB L2"
    return f"{name}, {cache}; {', '.join(versions)}; {datetime.now(timezone.utc):%Y-%m-%d}; batches of {BATCH:,} rows."


# --- data ---------------------------------------------------------------------------------------------------


def data(cp, n: int, d: int, seed: int):  # type: ignore[no-untyped-def]
    """Float32 unit vectors (n, d) on the GPU: loosely clustered, a tenth of them near copies of others."""
    rng = cp.random.RandomState(seed)
    x = rng.standard_normal((n, d), dtype=np.float32) + rng.standard_normal((1, d), dtype=np.float32)
    copies = n // 10
    x[-copies:] = x[:copies] + 0.3 * rng.standard_normal((copies, d), dtype=np.float32)
    return unit_vectors(x[rng.permutation(n)])


def nearly_equal(cp, n: int, d: int, seed: int):  # type: ignore[no-untyped-def]
    """One vector n times, each time with one element moved to the next float32."""
    x = cp.repeat(data(cp, 20, d, seed)[:1], n, axis=0)
    place = cp.arange(n), cp.arange(n) % d
    x[place] = cp.nextafter(x[place], np.float32(2))
    return x


# --- answers ------------------------------------------------------------------------------------------------


def print_checks(cp) -> bool:  # type: ignore[no-untyped-def]
    """Compares answers that must be the same bits; returns whether all are."""
    print("| input | compared | rows that differ |\n|---|---|---|")
    results = [check(cp, what, x, others) for what, x, others in comparisons(cp)]
    print(flush=True)
    return not any(results)


Answer = tuple[np.ndarray, np.ndarray]
Others = dict[str, Callable[[], Answer]]


def comparisons(cp) -> Iterator[tuple[str, object, Others]]:  # type: ignore[no-untyped-def]
    for d in (3, 384, 1000):
        x = data(cp, 3000, d, seed=d)
        host = cp.asnumpy(x)
        others: Others = {"NumPy": lambda host=host: ranked_max_similarity(host)}  # type: ignore[misc]
        yield f"3,000 × {d}", x, others | precisions_and_batches(cp, x)
    for what, make in {"near copies": data, "one vector, last bits differ": nearly_equal}.items():
        x = make(cp, 50_000 if make is data else 5000, 768, 0)
        yield f"{len(x):,} × 768, {what}", x, precisions_and_batches(cp, x)
    x = cp.repeat(data(cp, 20, 768, 1)[:1], 50_000, axis=0)
    own = ranked_max_similarity(cp.asnumpy(x[:2]))[0][1]
    scores, indices = np.full(50_000, own), np.zeros(50_000, np.int64)
    scores[0] = 0
    yield "50,000 × 768, all equal", x, {"the first row each time": lambda: (scores, indices)}


def precisions_and_batches(cp, x) -> Others:  # type: ignore[no-untyped-def]
    others: Others = {"float32": lambda: ours(cp, x, "float32")}
    for batch in (100, 1000, 5000):
        others[f"batches of {batch:,}"] = lambda batch=batch: ours(cp, x, "float16", batch)  # type: ignore[misc]
    return others


def check(cp, what: str, x, others: Others) -> int:  # type: ignore[no-untyped-def]
    scores, indices = ours(cp, x, "float16")
    differing = 0
    for name, other in others.items():
        other_scores, other_indices = other()
        different = (scores.view(np.int32) != other_scores.view(np.int32)) | (indices != other_indices)
        print(f"| {what} | float16 with {name} | {different.sum():,} |", flush=True)
        differing += int(different.sum())
    return differing


def ours(cp, x, precision: str, batch: int = BATCH) -> Answer:  # type: ignore[no-untyped-def]
    scores, indices = ranked_max_similarity(x, batch_size=batch, precision=precision)
    return cp.asnumpy(scores), cp.asnumpy(indices)


# --- times --------------------------------------------------------------------------------------------------


def print_times(cp, dims: list[int], rows: list[int]) -> None:  # type: ignore[no-untyped-def]
    print(
        "| d | N | ceiling TFLOP/s | ours float16 ms | of ceiling | products alone ms | ours float32 ms "
        "| torch half ms | ratio | torch float32 ms | rows torch half decides otherwise |\n" + "|---" * 11 + "|"
    )
    for d in dims:
        most = ceiling(cp, d)
        for n in rows:
            print(times(cp, d, n, most), flush=True)
    print()


def times(cp, d: int, n: int, most: float) -> str:  # type: ignore[no-untyped-def]
    repeats = 3 if n > 100_000 else 9
    x = data(cp, n, d, seed=n + d)

    def run(precision: str) -> float:
        return seconds(cp, lambda: ranked_max_similarity(x, batch_size=BATCH, precision=precision), repeats)

    fast, single = run("float16"), run("float32")
    with products_alone():
        products = run("float16")
    start = f"| {d} | {n:,} | {most / 1e12:.0f} | {1e3 * fast:.2f} | {100 * n * n * d / fast / most:.0f} % "
    start += f"| {1e3 * products:.2f} | {1e3 * single:.1f} "
    if torch is None:
        return start + "| – | – | – | – |"
    tx = torch.as_tensor(x, device="cuda")
    half = seconds(cp, lambda: torch_pipeline(tx, torch.float16), repeats)
    full = seconds(cp, lambda: torch_pipeline(tx, torch.float32), repeats)
    theirs = torch_pipeline(tx, torch.float16)[0].float().cpu().numpy() >= 1 - EPS
    otherwise = int((theirs != (ours(cp, x, "float16")[0].astype(np.float64) >= 1 - EPS)).sum())
    return f"{start}| {1e3 * half:.2f} | {half / fast:.2f} | {1e3 * full:.1f} | {otherwise:,} |"


def print_shapes(cp) -> None:  # type: ignore[no-untyped-def]
    """Ours in float16, 50,000 × 768, by rows per batch and bytes of products at once."""
    sizes = [8, 16, 32, 64]
    x = data(cp, 50_000, 768, seed=2)
    print("| 50,000 × 768, ms by workspace | " + " | ".join(f"{size} MB" for size in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    for batch in (512, 1024, 2048, 4096):
        found = []
        for size in sizes:
            with mock.patch.object(cuda, "_BLOCK_BYTES", size << 20):
                work = lambda: ranked_max_similarity(x, batch_size=batch, precision="float16")  # noqa: B023, E731
                found.append(f"{1e3 * seconds(cp, work, 5):.2f}")
        print(f"| batches of {batch:,} | " + " | ".join(found) + " |", flush=True)


@contextmanager
def products_alone() -> Iterator[None]:
    """Without kernels of our own. (Answers are rubbish meanwhile.)"""
    with mock.patch.object(cuda, "_launch"):
        yield


def seconds(cp, work: Callable[[], object], repeats: int) -> float:  # type: ignore[no-untyped-def]
    """Median time. CuPy's and PyTorch's work is on the default stream, as the events are."""
    work()
    times = []
    for _ in range(repeats):
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(cp.cuda.get_elapsed_time(start, stop) / 1000)
    return median(times)


def ceiling(cp, d: int) -> float:  # type: ignore[no-untyped-def]
    """Floating-point operations per second of the fastest large product with inner dimension ``d``."""
    rates = []
    for n in (8192, 16384, 32768):
        a = cp.random.RandomState(n).standard_normal((n, d), dtype=np.float32).astype(np.float16)
        out = cp.empty((n, n), np.float16)
        rates.append(2 * n * n * d / seconds(cp, lambda: cp.dot(a, a.T, out=out), 15))  # noqa: B023
    return max(rates)


def torch_pipeline(x, dtype):  # type: ignore[no-untyped-def]
    """Scores and indices by ``torch.mm`` + mask + ``torch.max``, batch by batch."""
    torch.backends.cuda.matmul.allow_tf32 = False
    x = x.to(dtype)
    scores, indices = [], []
    for start in range(0, len(x), BATCH):
        block = torch.mm(x, x[start : start + BATCH].T)
        best = torch.max(torch.triu(block, diagonal=1 - start), dim=0)
        scores.append(best[0])
        indices.append(best[1])
    return torch.cat(scores), torch.cat(indices)


if __name__ == "__main__":
    main()
