"""The kernel on one GPU against what it replaces: ``python benchmarks/gpu_kernel.py`` prints a Markdown table.

Needs Python, NumPy and CuPy, and PyTorch as the yardstick; neither Spark nor Java. Ends within five minutes.

For d = 384, 768, 1,024 and N = 10k, 50k, 200k unit vectors with a tenth of near copies, in rank order:

* ours: ``ranked_max_similarity``, screening in float16 and in float32; both give the exact answer;
* torch half, torch float32: per batch one ``torch.mm`` with all rows, a triangular mask, ``torch.max``, the pipeline
  that pairwise steps usually are (its float16 answer differs: rows that it decides otherwise are counted);
* the ceiling: a large half-precision matrix product of the same d, in floating-point operations per second. A kernel
  that multiplies only the half of the square that counts needs N² d of them.

Times are medians over repeats, by device events, after a warm-up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH = 1024
EPS = 0.05


def data(cp, n: int, d: int, seed: int):  # type: ignore[no-untyped-def]
    """Float32 unit vectors (n, d) on the GPU: loosely clustered, a tenth of them near copies of others."""
    from spark_semdedup.kernels import unit_vectors

    rng = cp.random.RandomState(seed)
    x = rng.standard_normal((n, d), dtype=np.float32) + rng.standard_normal((1, d), dtype=np.float32)
    copies = n // 10
    x[-copies:] = x[:copies] + 0.3 * rng.standard_normal((copies, d), dtype=np.float32)
    return unit_vectors(x[rng.permutation(n)])


def seconds(cp, work: Callable[[], object], repeats: int) -> float:  # type: ignore[no-untyped-def]
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


def torch_pipeline(torch, x, dtype):  # type: ignore[no-untyped-def]
    """Scores and indices by ``torch.mm`` + mask + ``torch.max``, batch by batch."""
    x = x.to(dtype)
    scores, indices = [], []
    for start in range(0, len(x), BATCH):
        block = torch.mm(x, x[start : start + BATCH].T)
        best = torch.max(torch.triu(block, diagonal=1 - start), dim=0)
        scores.append(best[0])
        indices.append(best[1])
    return torch.cat(scores), torch.cat(indices)


def torch_seconds(torch, work: Callable[[], object], repeats: int) -> float:  # type: ignore[no-untyped-def]
    work()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return median(times)


def ceiling(torch, d: int, dtype) -> float:  # type: ignore[no-untyped-def]
    """Floating-point operations per second of a large product with inner dimension ``d``."""
    a = torch.randn(32768, d, device="cuda", dtype=dtype)
    return 2 * 32768 * 32768 * d / torch_seconds(torch, lambda: torch.mm(a, a.T), 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768, 1024])
    args = parser.parse_args()

    import cupy as cp
    import torch

    from spark_semdedup.kernels import ranked_max_similarity

    torch.backends.cuda.matmul.allow_tf32 = False
    name = cp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, CuPy {cp.__version__}, PyTorch {torch.__version__}, batches of {BATCH} rows\n")
    print(
        "| d | N | ours float16 ms | of ceiling | ours float32 ms | torch half ms | ratio | torch float32 ms | "
        "rows torch half decides otherwise |\n|---|---|---|---|---|---|---|---|---|"
    )
    for d in args.dims:
        most = ceiling(torch, d, torch.float16)
        for n in args.rows:
            repeats = 3 if n > 100_000 else 7
            x = data(cp, n, d, seed=n + d)
            tx = torch.as_tensor(x, device="cuda")
            half = ranked_max_similarity(x, batch_size=BATCH, precision="float16")
            single = ranked_max_similarity(x, batch_size=BATCH, precision="float32")
            if not all(bool((a == b).all()) for a, b in zip(half, single, strict=True)):
                raise SystemExit(f"d={d}, N={n}: float16 and float32 screening differ: the kernel is wrong")
            ours16 = seconds(cp, lambda: ranked_max_similarity(x, batch_size=BATCH, precision="float16"), repeats)  # noqa: B023
            ours32 = seconds(cp, lambda: ranked_max_similarity(x, batch_size=BATCH, precision="float32"), repeats)  # noqa: B023
            torch16 = torch_seconds(torch, lambda: torch_pipeline(torch, tx, torch.float16), repeats)  # noqa: B023
            torch32 = torch_seconds(torch, lambda: torch_pipeline(torch, tx, torch.float32), repeats)  # noqa: B023
            theirs = torch_pipeline(torch, tx, torch.float16)[0].float().cpu().numpy() >= 1 - EPS
            otherwise = int((theirs != (cp.asnumpy(half[0]).astype(np.float64) >= 1 - EPS)).sum())
            share = n * n * d / ours16 / most
            print(
                f"| {d} | {n:,} | {1e3 * ours16:.1f} | {100 * share:.0f} % | {1e3 * ours32:.1f} | {1e3 * torch16:.1f} "
                f"| {torch16 / ours16:.2f} | {1e3 * torch32:.1f} | {otherwise:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
