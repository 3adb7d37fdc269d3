"""The checks of ``gpu_hour.py``, one a process: ``gpu_checks.py NAME [--quick] [--emulate]``; ``--list`` names them.

A check returns figures, raises ``AssertionError`` with what is wrong, or ``Skipped``. The last line printed is JSON.
What our code assumes of CuPy, cuBLAS and the driver is asserted here, each assumption with its message.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import gpu_kernel  # noqa: E402
import vectors  # noqa: E402

from spark_semdedup.kernels import arrays as our_arrays  # noqa: E402
from spark_semdedup.kernels import max_similarity, ranked_max_similarity, unit_vectors  # noqa: E402
from spark_semdedup.kernels.arithmetic import float64_screening_error  # noqa: E402
from spark_semdedup.kernels.assignment import Cells, assign  # noqa: E402
from spark_semdedup.kernels.cuda import launch as cuda  # noqa: E402
from spark_semdedup.kernels.lloyd import lloyd, random_rows  # noqa: E402
from spark_semdedup.kernels.sketch import Sketches  # noqa: E402

Figures = dict[str, Any]


class Skipped(Exception):
    """What the check needs is not here."""


CHECKS: dict[str, tuple[Callable[[Any, bool], Figures], float]] = {}
"""By name: a function of CuPy and of whether sizes are to be small, and seconds at most."""


def check(seconds: float = 300) -> Callable[[Callable[[Any, bool], Figures]], Callable[[Any, bool], Figures]]:
    def register(function: Callable[[Any, bool], Figures]) -> Callable[[Any, bool], Figures]:
        CHECKS[function.__name__.replace("_", "-")] = function, seconds
        return function

    return register


# --- the machine, and what is taken for granted -------------------------------------------------------------


@check(60)
def machine(cp: Any, quick: bool) -> Figures:
    """What it runs on."""
    device = cp.cuda.Device()
    asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,ecc.mode.current"
    return {
        "GPU": gpu_kernel.machine(cp),
        "GPUs": cp.cuda.runtime.getDeviceCount(),
        "L2 cache, MiB": device.attributes["L2CacheSize"] / 2**20,
        "memory, GiB free and in all": [round(size / 2**30, 1) for size in device.mem_info],
        "nvidia-smi": smi(asked),
    }


def smi(asked: str) -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not installed"
    command = [tool, f"--query-gpu={asked}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().replace("\n", "; ")


@check(120)
def assumptions(cp: Any, quick: bool) -> Figures:
    """Each is stated in a comment where our code relies on it."""
    blas, handle = cuda._cublas()
    assert not [name for name in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE") if os.environ.get(name)], "TF32 is asked for"
    before = blas.getMathMode(handle)
    blas.setMathMode(handle, cuda._REDUCE_IN_ACCUMULATORS_TYPE)
    kept = blas.getMathMode(handle)
    blas.setMathMode(handle, before)
    assert kept == cuda._REDUCE_IN_ACCUMULATORS_TYPE, f"cuBLAS keeps mode {kept} where 16 was set"
    assert cuda._cublas()[1] == handle, "a thread's cuBLAS handle changes between two calls"
    assert cuda._address(cp.empty((3, 5), np.float16)) % 16 == 0, "arrays do not begin at multiples of 16 bytes"
    small = np.array([1e-45, -1e-45, 1e-40, 0.0, -0.0], np.float32)
    wide = cp.asnumpy(our_arrays.widened(cp.asarray(small)))
    assert wide.tobytes() == small.astype(np.float64).tobytes(), "subnormal numbers are flushed as they are widened"
    back = cp.asnumpy(our_arrays.rounded(cp.asarray(small.astype(np.float64))))
    assert back.tobytes() == small.tobytes(), "subnormal numbers are flushed as they are rounded"
    least = cp.asarray(np.array([9, 9, 9], np.int64))
    our_arrays.minimum_at(least, cp.asarray(np.array([0, 0, 2])), cp.asarray(np.array([5, 3, 7])))
    assert cp.asnumpy(least).tolist() == [3, 9, 7], "minimum.at of uint64 is wrong"
    x = cp.asarray(np.random.default_rng(0).integers(-8, 9, (70, 24)).astype(np.float32))
    for precision in ("float16", "float32", "float64"):
        found, exact = products(cp, x, x, precision), cp.asnumpy(x).astype(np.float64) @ cp.asnumpy(x).T
        off = np.abs(found - exact).max()
        emulated = {"float16": 1.0, "float32": 1e-4, "float64": 1e-4}  # which adds errors, as far as bounds allow
        bound = emulated[precision] if os.environ.get("GPU_CHECKS_EMULATED") else 0.0
        assert off <= bound, f"{precision}: products of small whole numbers are off by {off}"
    return {"cuBLAS's usual mode": before}


@check(120)
def memory(cp: Any, quick: bool) -> Figures:
    """The pool's bound, what cuBLAS takes beside it, and what is said where others hold the memory."""
    if os.environ.get("GPU_CHECKS_EMULATED"):
        raise Skipped("memory is not emulated")
    from spark_semdedup.kernels.oom import OomRetry, lacks_device_memory, release_cached

    pool, device = cp.get_default_memory_pool(), cp.cuda.Device()
    free = device.mem_info[0]
    cuda._cublas()
    taken = free - device.mem_info[0]
    pool.set_limit(size=64 << 20)
    refused: Exception | None = None
    try:
        cp.empty(65 << 20, np.uint8)
    except cp.cuda.memory.OutOfMemoryError as error:
        refused = error
    pool.set_limit(size=0)
    assert refused is not None, "the pool's limit does not bound it"
    assert lacks_device_memory(refused), f"not known for a lack of memory: {refused!r}"
    release_cached()
    x = gpu_kernel.data(cp, 20_000, 384, 0)
    expected = [cp.asnumpy(each) for each in ranked_max_similarity(x, precision="float16")]
    release_cached()
    hoard = cp.cuda.runtime.malloc(int(device.mem_info[0] - (96 << 20)))  # past the pool, as another process takes it
    try:
        retry = OomRetry()
        found = retry.fitted(lambda: ranked_max_similarity(x, precision="float16"), 1024)
        found = [cp.asnumpy(each) for each in found]
    finally:
        cp.cuda.runtime.free(hoard)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True)), "the answer changed"
    return {"cuBLAS takes, MiB": taken / 2**20, "halvings with 96 MiB free": retry.halvings}


# --- bounds and bits ----------------------------------------------------------------------------------------


def products(cp: Any, rows: Any, columns: Any, precision: str) -> np.ndarray:
    """All products of rows and columns as the kernels get them, float64."""
    n, m = len(rows), len(columns)
    state = cuda._State.of(rows, columns, np.full(n, m), n)
    kind = cuda.KINDS[precision]
    with cuda._cublas_settings():
        workspace = cuda._Products(cp, kind, state)
        parts = []
        operands = cuda._operand(rows, kind), cuda._operand(columns, kind)
        for start in range(0, m, workspace.width):
            block = slice(start, min(start + workspace.width, m))
            workspace.multiply(operands[0], slice(0, n), operands[1], block)
            parts.append(cp.asnumpy(workspace._array[:n, : block.stop - start]).astype(np.float64))
    return np.concatenate(parts, axis=1)


def hard_on_sums(kind: str, n: int, d: int) -> np.ndarray:
    """Unit vectors whose partial sums are large or cancel, whichever way a product is split."""
    rng = np.random.default_rng(d)
    if kind == "one sign":
        x = 1 + rng.random((n, d))
    elif kind == "alternating":
        x = (1 + rng.random((n, d))) * np.where(np.arange(d) % 2, 1, -1)
    elif kind == "halves cancel":
        x = (1 + rng.random((n, d))) * np.where(np.arange(d) < d / 2, 1, -1)
    else:
        x = vectors.make(kind, n, d)
    return np.asarray(unit_vectors(np.asarray(x, np.float64)))


@check(600)
def error_bounds(cp: Any, quick: bool) -> Figures:
    """Real products against float64, over shapes that cuBLAS splits along the inner dimension, too: within half of the
    slack that candidates are screened by."""
    shapes = [(1, 70, 8), (3, 65, 96)] if quick else [
        (m, n, d) for m in (1, 2, 7, 16, 64, 1024) for n in (64, 4096) for d in (1, 3, 64, 384, 768, 1000, 4096)
    ]  # fmt: skip
    kinds = ["one sign", "alternating", "halves cancel", "skewed", "tiny_components"]
    worst: list[Figures] = []
    for precision in ("float16", "float32", "float64"):
        shares = []
        for m, n, d in shapes:
            for kind in kinds:
                x = hard_on_sums(kind, m + n, d)
                rows, columns = cp.asarray(x[:m]), cp.asarray(x[m:])
                off = np.abs(products(cp, rows, columns, precision) - x[:m].astype(np.float64) @ x[m:].T.astype(float))
                bound = (
                    float64_screening_error(d) if precision == "float64" else (cuda.slack(d, precision) - 2**-23) / 2
                )
                shares.append((float(off.max()) / bound, f"{m} x {n} x {d}, {kind}"))
        share, where = max(shares)
        worst.append({"precision": precision, "worst share of the bound": share, "where": where, "shapes": len(shapes)})
        assert share <= 1, f"{precision}: off by {share:.3g} times the bound at {where}"
    return {"products": worst}


@check(900)
def bits(cp: Any, quick: bool) -> Figures:
    """Answers equal NumPy's bit for bit: hard inputs, edges of n and d, batches, streams, layouts, generic."""
    sizes = (
        [(1, 3), (65, 20)] if quick else [(1, 1), (2, 3), (63, 64), (65, 384), (1025, 768), (3000, 1000), (700, 4096)]
    )
    compared = 0
    for kind in vectors.KINDS:
        for n, d in sizes:
            x = vectors.make(kind, n, d)
            expected = ranked_max_similarity(x)
            for name, found in ways(cp, x):
                wrong = [
                    int((a.view(np.int32) != b.view(np.int32)).sum()) for a, b in zip(found, expected, strict=True)
                ]
                assert not any(wrong), f"{kind}, {n} x {d}, {name}: {wrong[0]} scores and {wrong[1]} indices differ"
                compared += 1
    rows, columns = vectors.make("near_duplicates", 70, 20), vectors.make("near_duplicates", 430, 20, seed=1)
    limits = np.sort(np.random.default_rng(0).integers(0, 431, 70))
    for a, b in zip(
        max_similarity(cp.asarray(rows), cp.asarray(columns), limits),
        max_similarity(rows, columns, limits),
        strict=True,
    ):
        assert cp.asnumpy(a).tobytes() == b.tobytes(), "two sides: the answer differs"
    return {"comparisons": compared + 1}


def ways(cp: Any, x: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The answer, computed in several ways."""
    n, d = x.shape

    def answer(there: Any, **options: Any) -> list[np.ndarray]:
        return [cp.asnumpy(each) for each in ranked_max_similarity(there, **options)]

    there = cp.asarray(x)
    for precision in ("float16", "float32", "generic"):
        yield precision, answer(there, precision=precision)
        yield f"{precision}, batches of 7", answer(there, precision=precision, batch_size=7)
    wide = cp.zeros((2 * n, d + 3), np.float32)
    wide[::2, 1 : d + 1] = there
    yield "neither contiguous nor aligned", answer(wide[::2, 1 : d + 1], precision="float16")
    flat = cp.zeros(n * d + 1, np.float32)
    flat[1:] = there.ravel()
    yield "contiguous, not aligned", answer(flat[1:].reshape(n, d), precision="float16")
    with cp.cuda.Stream(non_blocking=True) as stream:
        mine = cp.asarray(x)
        found = answer(mine, precision="float16")
        stream.synchronize()
    yield "a stream of its own", found


@check(300)
def several_gpus(cp: Any, quick: bool) -> Figures:
    """The last GPU gives the first one's answer."""
    devices = cp.cuda.runtime.getDeviceCount()
    if devices < 2:
        raise Skipped("there is one GPU")
    x = vectors.make("near_duplicates", 2000, 384)
    expected = ranked_max_similarity(x)
    for device in range(devices):
        with cp.cuda.Device(device):
            found = ranked_max_similarity(cp.asarray(x), precision="float16")
            same = all(cp.asnumpy(a).tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))
            assert same, f"GPU {device} gives another answer"
    return {"GPUs": devices}


# --- times --------------------------------------------------------------------------------------------------


def warm_up(cp: Any, quick: bool) -> None:
    """Two seconds of products: clocks rise within the first."""
    a = cp.asarray(np.ones((64 if quick else 8192, 64 if quick else 8192), np.float16))
    total = 0.0
    while total < (0.0 if quick else 2.0):
        total += 5 * gpu_kernel.seconds(cp, lambda: a @ a.T, 5)


@check(600)
def comparison_speed(cp: Any, quick: bool) -> Figures:
    """By events after a warm-up, in shares of the fastest half-precision product there is on this GPU. Below half of it
    at 50,000 rows the kernel has failed; a cluster's true size, 1,000 to 10,000, shows what the host takes."""
    warm_up(cp, quick)
    clocks = [smi("clocks.sm,temperature.gpu,clocks_throttle_reasons.active")]
    table: list[Figures] = []
    for d in (16,) if quick else (384, 768, 1024):
        most = 1e9 if quick else gpu_kernel.ceiling(cp, d)
        for n in (100,) if quick else (1000, 3000, 10_000, 50_000, 200_000):
            x = cp.asarray(vectors.make("random", n, d)) if quick else gpu_kernel.data(cp, n, d, seed=n)
            row: Figures = {"d": d, "n": n, "ceiling TFLOP/s": most / 1e12}
            for precision in ("float16", "float32", "generic") if n <= 50_000 else ("float16",):
                work = lambda: ranked_max_similarity(x, batch_size=1024, precision=precision)  # noqa: B023, E731
                took = gpu_kernel.seconds(cp, work, 3 if n > 50_000 else 9)
                row[f"{precision} ms"] = 1e3 * took
                if precision == "float16":
                    row["of the ceiling"] = n * n * d / took / most
            if not quick:
                with gpu_kernel.products_alone():
                    row["products alone ms"] = 1e3 * gpu_kernel.seconds(cp, lambda: ours16(x), 5)  # noqa: B023
            table.append(row)
    clocks.append(smi("clocks.sm,temperature.gpu,clocks_throttle_reasons.active"))
    slow = [row for row in table if row["n"] == 50_000 and row["of the ceiling"] < 0.5]
    print(json.dumps(table), flush=True)
    assert not slow, (
        f"{slow[0]['of the ceiling']:.0%} of the ceiling at 50,000 x {slow[0]['d']}: at least 50 % is wanted"
    )
    return {"clocks before and after": clocks, "ranked_max_similarity": table}


def ours16(x: Any) -> Any:
    return ranked_max_similarity(x, batch_size=1024, precision="float16")


@check(300)
def torch_beside(cp: Any, quick: bool) -> Figures:
    """The usual pipeline of a matrix product, a mask and a maximum, by PyTorch, in turn with ours."""
    if importlib.util.find_spec("torch") is None or os.environ.get("GPU_CHECKS_EMULATED"):
        raise Skipped("PyTorch is not installed")
    import torch

    warm_up(cp, quick)
    table = []
    for n in (10_000, 50_000):
        x = gpu_kernel.data(cp, n, 768, seed=n)
        theirs = torch.as_tensor(x, device="cuda")
        ours = gpu_kernel.seconds(cp, lambda: ours16(x), 9)  # noqa: B023
        half = gpu_kernel.seconds(cp, lambda: gpu_kernel.torch_pipeline(theirs, torch.float16), 9)  # noqa: B023
        table.append({"n": n, "d": 768, "ours ms": 1e3 * ours, "torch half ms": 1e3 * half, "ratio": half / ours})
    return {"pipelines": table}


@check(300)
def assignment_speed(cp: Any, quick: bool) -> Figures:
    """Nearest centroids and distances, and an iteration of Lloyd's."""
    warm_up(cp, quick)
    table: list[Figures] = []
    n, d = (200, 16) if quick else (100_000, 768)
    x = cp.asarray(vectors.make("random", n, d)) if quick else gpu_kernel.data(cp, n, d, seed=1)
    for k in (5,) if quick else (100, 1000, 10_000, 30_000):
        cells = Cells.of(random_rows(x, k, 0))
        took = gpu_kernel.seconds(cp, lambda: assign(x, cells, distances=("l2_dist_to_cent",)), 3)  # noqa: B023
        fit = gpu_kernel.seconds(cp, lambda: lloyd(x, random_rows(x, k, 0), max_iter=1, tol=0.0), 3)  # noqa: B023
        row = {"n": n, "d": d, "k": k, "assign ms": 1e3 * took, "TFLOP/s": 2e-12 * n * k * d / took}
        table.append({**row, "Lloyd iteration ms": 1e3 * fit})
    host = cp.asnumpy(x[:200])
    same = assign(host, Cells.of(host[:5])).centroid
    found = cp.asnumpy(assign(cp.asarray(host), Cells.of(cp.asarray(host[:5]))).centroid)
    assert (same == found).all(), "labels differ from NumPy's"
    return {"assignment": table}


@check(300)
def sketch_beside(cp: Any, quick: bool) -> Figures:
    """A block by sketches and by whole vectors: what ``Side.of`` decides by arithmetic."""
    warm_up(cp, quick)
    n, d = (260, 256) if quick else (32_768, 768)
    x = cp.asarray(vectors.make("near_duplicates", n, d)) if quick else gpu_kernel.data(cp, n, d, seed=3)
    values = Sketches.of(x).values
    limits = np.full(n, n)

    def sketched() -> Any:
        return cp.count_nonzero(values @ values.T >= np.float32(0.95))

    by_sketch = gpu_kernel.seconds(cp, sketched, 5)
    whole = gpu_kernel.seconds(cp, lambda: max_similarity(x, x, limits, precision="float16"), 5)
    return {"sketches, ms": 1e3 * by_sketch, "whole vectors, ms": 1e3 * whole, "n": n, "d": d}


@check(120)
def host_to_device(cp: Any, quick: bool) -> Figures:
    """Bytes per second of vectors brought to the GPU as our tasks do, and from pinned memory."""
    host = np.ones((100 if quick else 65_536, 768), np.float32)
    there = cp.empty(host.shape, np.float32)
    figures = {"pageable, GB/s": host.nbytes / 1e9 / gpu_kernel.seconds(cp, lambda: there.set(host), 5)}
    if not os.environ.get("GPU_CHECKS_EMULATED"):
        pinned = np.frombuffer(cp.cuda.alloc_pinned_memory(host.nbytes), np.float32, host.size).reshape(host.shape)
        figures["pinned, GB/s"] = host.nbytes / 1e9 / gpu_kernel.seconds(cp, lambda: there.set(pinned), 5)
    return figures


# --- other programs -----------------------------------------------------------------------------------------


def ended(command: list[str], seconds: float, **environment: str) -> str:
    """What a program prints; an AssertionError with its last lines where it fails."""
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    print(found.stdout, found.stderr, flush=True)
    tail = " / ".join((found.stdout + found.stderr).strip().splitlines()[-3:])
    assert found.returncode == 0, f"status {found.returncode}: {tail}"
    return found.stdout


def tests(path: str, seconds: float) -> Figures:
    """The tests of a path that need a GPU; where they were skipped, so is the check."""
    last = ended([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", path], seconds)
    summary = last.strip().splitlines()[-1]
    if "passed" not in summary:
        raise Skipped(summary)
    return {"pytest": summary}


def needs(*modules: str) -> None:
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if lacking or os.environ.get("GPU_CHECKS_EMULATED"):
        raise Skipped(f"not installed: {', '.join(lacking)}" if lacking else "not emulated")


@check(1200)
def kernel_tests(cp: Any, quick: bool) -> Figures:
    """All tests of the kernels on CuPy's arrays."""
    needs("pytest", "hypothesis")
    return tests("tests/kernels", 1200)


@check(900)
def sanitizer(cp: Any, quick: bool) -> Figures:
    """compute-sanitizer over ``bits``: out of bounds, races, uninitialised memory."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None or os.environ.get("GPU_CHECKS_EMULATED"):
        raise Skipped("compute-sanitizer is not installed")
    for kind in ("memcheck", "racecheck", "initcheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, __file__, "bits", "--quick"]
        ended(command, 300, CUPY_CUDA_PER_THREAD_DEFAULT_STREAM="0")
    return {"tools": "memcheck, racecheck, initcheck"}


@check(1200)
def job(cp: Any, quick: bool) -> Figures:
    """The whole job in Spark, spark-rapids-ml's fit included, beside the CPU."""
    needs("pyspark", "cuml", "spark_rapids_ml", "pytest")
    return tests("tests/platforms/test_gpu_job.py", 1200)


@check(900)
def plugin(cp: Any, quick: bool) -> Figures:
    """The same answer with the RAPIDS Accelerator's plan, GPUs scheduled by a standalone worker."""
    needs("pyspark")
    jars = sorted((ROOT / "build" / "jars").glob("rapids-4-spark_*.jar"))
    if not jars:
        raise Skipped("the plugin's jar is not in build/jars (make rapids-jar)")
    said = ended([sys.executable, "benchmarks/gpu_plugin.py", str(jars[-1])], 900)
    return dict(json.loads(said.strip().splitlines()[-1]))


# --- this process -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name} {seconds:g}" for name, (_, seconds) in CHECKS.items()))
        return
    said: Figures = {"status": "passed", "message": "", "figures": {}}
    try:
        said["figures"] = CHECKS[args.name][0](_cupy(args.emulate), args.quick)
    except Skipped as why:
        said |= {"status": "skipped", "message": str(why)}
    except Exception as error:
        traceback.print_exc()
        said |= {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(said, default=str), flush=True)
    sys.exit(1 if said["status"] == "failed" else 0)


def _cupy(emulate: bool) -> Any:
    if emulate:
        from kernels import fake_cupy

        os.environ["GPU_CHECKS_EMULATED"] = "1"
        return fake_cupy.install()
    try:
        import cupy
    except ImportError as error:
        raise Skipped(f"CuPy cannot be imported: {error}") from None
    return cupy


if __name__ == "__main__":
    main()
