"""``spark_semdedup.kernels.cuda.launch`` without a GPU: its own host code and its own kernels, compiled for the CPU.

What is put in its place is what the machine lacks: memory (NumPy arrays that are full of rubbish when allocated,
between guards), cuBLAS (one function, by its definition, as inexact as the bounds allow) and the launching of kernels
(``emulator.h``, which also checks the arguments' number and kinds, as nothing does on a GPU).
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spark_semdedup.kernels.cuda import launch as cuda

CPLUSPLUS = shutil.which("g++") or shutil.which("clang++")
GUARD = 1024
LAUNCHERS = """
#ifdef PRODUCT_BYTES
LAUNCHER(screen)
#else
LAUNCHER(decide)
LAUNCHER(bracket)
LAUNCHER(unpack)
#endif
"""


class Compiler:
    """Kernels as C++ for this machine; each set of macros is compiled once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libraries: dict[tuple[str, ...], ctypes.CDLL] = {}

    def library(self, source: str, options: tuple[str, ...]) -> ctypes.CDLL:
        key = (source, *options)
        if key not in self._libraries:
            name = self._folder / f"kernels{len(self._libraries)}"
            header = Path(__file__).with_name("emulator.h")
            name.with_suffix(".cpp").write_text(f'#include "{header}"\n{source}\n{LAUNCHERS}')
            flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-fPIC", "-shared", *options]
            command = [CPLUSPLUS, *flags, f"{name}.cpp", "-o", f"{name}.so"]
            built = subprocess.run(command, capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
            self._libraries[key] = ctypes.CDLL(f"{name}.so")
        return self._libraries[key]


class Device:
    """A GPU as far as ``cuda`` sees one. ``seed``: in which order threads run, and how products are off."""

    def __init__(self, compiler: Compiler, seed: int = 0, source: str = cuda.SOURCE) -> None:
        self.memory = Memory()
        self.blas = Cublas(seed)
        self.launched: list[str] = []
        self.cache_bytes = 50 << 20
        self._one_at_a_time = threading.Lock()
        self._compiler = compiler
        self._seed = seed
        self._source = source

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Device:
        for name, value in {
            "array_module": lambda array: self.memory,
            "_kernel": self.kernel,
            "_cublas": lambda: (self.blas, 1),
            "_address": lambda array: array.ctypes.data,
            "_cache_bytes": lambda: self.cache_bytes,
        }.items():
            monkeypatch.setattr(cuda, name, value)
        return self

    def kernel(self, name: str, **macros: int) -> Callable[..., None]:
        library = self._compiler.library(self._source, cuda.compile_options(**macros))
        launcher = getattr(library, f"launch_{name}")
        launcher.restype = ctypes.c_char_p

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            with self._one_at_a_time:  # the emulator's threads of a block are global
                launch_alone(grid, block, arguments)

        def launch_alone(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            assert block == (cuda._THREADS,)
            assert len(grid) == 1
            assert 0 < grid[0] < 2**31, "CUDA refuses empty grids"
            kinds, slots = zip(*map(_argument, arguments), strict=True)
            pointers = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(slot) for slot in slots))
            self._seed += 1
            failure = launcher(
                ctypes.c_int64(grid[0]), ctypes.c_uint(self._seed), "".join(kinds).encode(), pointers
            ).decode()
            assert not failure, f"{name}: {failure}"
            self.launched.append(name)
            self.memory.check_guards()

        return launch


def _argument(value: Any) -> tuple[str, Any]:
    """What CuPy passes for it (``_pointer`` of its ``cuda/function.pyx``): always 8 bytes, or nothing of the kind."""
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return "p", ctypes.c_void_p(value.ctypes.data if value.size else 0)
    if type(value) is int:
        return "i", ctypes.c_int64(value)
    assert type(value) is float, f"{value!r} would be passed by a size of its own"
    return "d", ctypes.c_double(value)


class Memory:
    """The functions of CuPy that are used, as NumPy has them; but what is not initialised is rubbish."""

    def __init__(self) -> None:
        self._allocated: list[weakref.ref[np.ndarray]] = []

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(size + 2 * GUARD + 16, 0x7B, np.uint8)  # 0x7B7B: 60,000 in float16; larger in the others
        start = GUARD + -(raw.ctypes.data + GUARD) % 16
        self._allocated.append(weakref.ref(raw))
        return raw[start : start + size].view(dtype).reshape(shape)

    def full(self, shape: int | tuple[int, ...], value: Any, dtype: Any) -> np.ndarray:
        array = self.empty(shape, dtype)
        array[...] = value
        return array

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.full(shape, 0, dtype)

    def check_guards(self) -> None:
        alive = [(reference, reference()) for reference in self._allocated]
        self._allocated = [reference for reference, raw in alive if raw is not None]
        for raw in (raw for _, raw in alive if raw is not None):
            start = GUARD + -(raw.ctypes.data + GUARD) % 16
            end = start + (raw.size - 2 * GUARD - 16)
            assert (raw[:start] == 0x7B).all(), "written before the start of an array"
            assert (raw[end:] == 0x7B).all(), "written past the end of an array"

    asarray = staticmethod(np.asarray)
    ascontiguousarray = staticmethod(np.ascontiguousarray)
    flatnonzero = staticmethod(np.flatnonzero)


class Cublas:
    """``cublasGemmEx`` by its definition: column after column, alpha · op(A) · op(B), sizes and strides as given.

    Its sums are off by up to half of what ``screening_error`` allows, at random, and a product stored as float16 is
    rounded up or down, at random.
    """

    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_GEMM_DEFAULT = 0, 1, -1
    CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_64F = 68, 69, 70

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._handle = threading.local()  # CuPy has one for each thread

    def getMathMode(self, handle: int) -> int:
        return getattr(self._handle, "mode", 0)

    def setMathMode(self, handle: int, mode: int) -> None:
        self._handle.mode = mode

    def gemmEx(
        self, handle, transa, transb, m, n, k, alpha, a, atype, lda, b, btype, ldb, beta, c, ctype, ldc, compute, algo
    ):  # type: ignore[no-untyped-def]
        assert self.getMathMode(handle) == 16, "partial sums may be rounded to the output's type"
        assert (atype, ctype, compute) in {(2, 2, 68), (0, 0, 69), (1, 1, 70)}
        assert atype == btype
        assert algo == self.CUBLAS_GEMM_DEFAULT
        sums = np.float64 if compute == 70 else np.float32
        left = _matrix(a, atype, k if transa else m, m if transa else k, lda)
        right = _matrix(b, btype, n if transb else k, k if transb else n, ldb)
        left, right = (left.T if transa else left), (right.T if transb else right)
        product = left.astype(sums) @ right.astype(sums) * _matrix(alpha, {68: 0, 69: 0, 70: 1}[compute], 1, 1, 1)
        assert not _matrix(beta, {68: 0, 69: 0, 70: 1}[compute], 1, 1, 1)[0, 0]
        error = k * (2.0**-53 if compute == 70 else 2 * 2.0**-24)
        product = product + self._rng.uniform(-error, error, product.shape)
        _matrix(c, ctype, m, n, ldc)[...] = self._rounded(product) if ctype == 2 else product

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        nearest = values.astype(np.float16)
        other = np.nextafter(nearest, np.where(values > nearest, np.float16(np.inf), np.float16(-np.inf)))
        exact = nearest == values
        return np.where(exact | (self._rng.random(values.shape) < 0.5), nearest, other)


def _matrix(address: int, data_type: int, rows: int, columns: int, pitch: int) -> np.ndarray:
    """The matrix at an address: element (i, j) is number ``i + j * pitch``."""
    assert pitch >= rows > 0
    assert columns > 0
    dtype = np.dtype({0: np.float32, 1: np.float64, 2: np.float16}[data_type])
    size = (columns - 1) * pitch + rows
    buffer = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    flat = np.frombuffer(buffer, dtype)
    strides = (dtype.itemsize, pitch * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), strides)
