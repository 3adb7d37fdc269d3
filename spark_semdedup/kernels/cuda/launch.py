"""``max_similarity`` on one NVIDIA GPU: cuBLAS multiplies, four small kernels (``max_similarity.cu``) do the rest.

A panel of rows is multiplied with one block of columns after another, each block into the same workspace::

                 columns ->                                   per block, each on the device's stream:
             +-------+-------+-------+                          multiply   a cuBLAS product, into the workspace
    panel 0  | b0 \\  |       |       |                          screen     raises each row's maximum, keeps the
    panel 1  | b0    | b1 \\  |       |                                     few products within the slack of it
    panel 2  | b0    | b1    | b2 \\  |                        per 16,384 rows:
    panel 3  | b0    | b1    | b2    |                          decide     exact dot products of what was kept
             +-------+-------+-------+                        once: the host reads how many rows kept too much

Blocks right of the staircase are not multiplied. The host waits once, at the end. Rows that kept more candidates than
there is room for (boilerplate, equal rows) are screened again in float32, whose slack is a tenth of float16's; rows
that are still too full are multiplied in float64, whose products are scores but for their last rounding.

Floor for n rows of dimension d, and what n = 50,000, d = 768 should take on an H200 (990 TFLOP/s by its data sheet, 650
to 700 of them in practice; 4.8 TB/s of memory, about 5.5 TB/s of L2 cache). None of it has been measured yet:

========  ============================================  =======================================================
multiply  n² d operations                               1.9e12: 2.8 ms at 690 TFLOP/s
          n² / (2 · 1024) rows of 2d bytes are read     1.9 GB: 0.4 ms, while it multiplies
screen    n² / 2 float16 products, written and read     2.5 GB from the cache: 0.5 ms; written while it multiplies
decide    about 1.5 candidates per row, 8d bytes each   0.5 GB: 0.1 ms
launches  about 100 blocks, two each                    5 µs to fill and drain the chip: 0.5 ms
========  ============================================  =======================================================

That would be about 4 ms, 70 % of the ceiling. Products are stored as float16 because stored as float32 they are twice
the bytes *and*, in a workspace of the same size, twice the launches: 5 ms. (Memory is nearly as fast as the cache on
an H200, so little is lost where part of the workspace is evicted.) In float32 multiplying is all: 1.9e12 at 55
TFLOP/s are 35 ms.

``rows`` and ``columns`` are copied once in float16 (half their own bytes); beside that there are a workspace of 32 MB,
candidates of one chunk of rows (4 MB), 20 bytes per row. Where rows keep too much: a copy of those in float32, and for
float64 products 32 MB of candidates and one panel and block of vectors (``packing.device_bytes``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arithmetic import float64_screening_error, screening_error
from spark_semdedup.kernels.arrays import Array, array_module, to_numpy
from spark_semdedup.kernels.cuda.kinds import FINER, KINDS, ONE, ZERO, Kind
from spark_semdedup.kernels.oom import shrink

SOURCE = resources.files(__package__).joinpath("max_similarity.cu").read_text()

MAX_DIMENSION = 4096
"""Largest d. The tree is unrolled when the kernels are compiled, so code grows with d."""

_BLOCK_BYTES = 32 << 20
"""Bytes of products at once, at most. 1024 × 16,384 float16 products are 512 tiles of 128 × 256, 3.9 waves of an H200's
132 processors, and 37 µs of multiplying: long beside launching."""

_CACHE_SHARE = 0.8
"""Of the L2 cache (H100, H200: 50 MB, A100: 40 MB) for a block's products, which one kernel writes and the next reads,
its columns and its rows. Of d = 768 that makes blocks of some 11,000 columns on an H100."""

_MAX_PANEL_ROWS = 4096
"""A panel multiplies about half its square in vain, and its blocks get narrower: larger batches should win nothing."""

_CHUNK_ROWS = 16_384
"""Rows decided at once: enough warps to fill the chip, and a few MB of candidates."""

_THREADS = 256

_VECTORS = 8
"""16-byte loads per thread: 32 kB of a row stay in the registers of one block of threads."""

_ALIGNED = 64
"""Blocks' widths are multiples of this where there are columns enough: cuBLAS's fast kernels want aligned sizes."""

_HALF_STORED = 2.0**-10
"""How far a product moves when stored as float16, however rounded: less than one unit in the last place of [1, 2).
(Less than 2⁻¹⁴ below the normal range, should that be flushed to zero.)"""

_REDUCE_IN_ACCUMULATORS_TYPE = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, with CUBLAS_DEFAULT_MATH. cublas_api.h: "flag to force any
reductons to use the accumulator type and not output type in case of mixed precision routines with lower size output
type". Without it partial sums may be rounded to float16 as often as cuBLAS likes, and no bound holds. TF32 is another
math mode, so it is ruled out whatever CUPY_TF32 says. (Emulated products, which environment variables ask for, are
refused where GPUs are looked for: ``devices``.)"""


def max_similarity_on_gpu(
    rows: Array, columns: Array, limits: np.ndarray, *, batch_size: int, precision: str, capacity: int
) -> tuple[Array, Array]:
    """``pairwise.max_similarity`` for CuPy arrays on the current device with d ≤ ``MAX_DIMENSION``; arguments have been
    checked.

    ``capacity``: candidates kept per row; rows with more take longer.
    """
    xp = array_module(rows)
    same = rows is columns
    rows = xp.ascontiguousarray(rows)
    columns = rows if same else xp.ascontiguousarray(columns)
    with _cublas_settings():
        return _staged(rows, columns, limits, min(shrink(batch_size), _MAX_PANEL_ROWS), precision, capacity)


def _staged(
    rows: Array, columns: Array, limits: np.ndarray, panel_rows: int, precision: str, capacity: int
) -> tuple[Array, Array]:
    """Screens all rows in ``precision``, then those that are too full in the next finer one."""
    scores, indices, full = _stage(rows, columns, limits, panel_rows, precision, capacity)
    while len(full):
        precision = FINER[precision]
        # Gathered from all rows each time, for the call alone: two copies of them never stand beside each other.
        found = _stage(rows[full], columns, limits[to_numpy(full)], panel_rows, precision, capacity)
        scores[full], indices[full], still = found
        full = full[still]
    return scores, indices


def _stage(
    rows: Array, columns: Array, limits: np.ndarray, panel_rows: int, precision: str, capacity: int
) -> tuple[Array, Array, Array]:
    """Scores and indices by screening in ``precision``, and the numbers of the rows that are too full for it, for which
    these say nothing; none with float64. The host waits here, once."""
    xp = array_module(rows)
    state = _State.of(rows, columns, limits, panel_rows)
    if precision == "float64":
        _bracketed(state)
        return *state.unpack(), xp.empty(0, np.int64)
    capacity = min(capacity, int(limits[-1]) if len(limits) else 0)
    overfull = _screened(state, precision, capacity)
    scores, indices = state.unpack()
    full = xp.flatnonzero(state.counts > capacity) if int(overfull[0]) else xp.empty(0, np.int64)
    return scores, indices, full


def slack(d: int, precision: str) -> float:
    """How far below a row's highest screened product its true best may be screened."""
    error = screening_error(d, precision, tensor_cores=True) + (_HALF_STORED if precision == "float16" else 0.0)
    # Best and candidate may each be off by the error; 2⁻²³ for rounding the threshold itself to float32.
    return 2 * error + 2.0**-23


@dataclass(frozen=True)
class _State:
    """The two sides, and for each row what the kernels know so far. Arrays of length n, on the device."""

    rows: Array
    columns: Array
    limits: np.ndarray
    panel_rows: int
    device_limits: Array  # int32
    highest: Array  # float32: of the screened products
    counts: Array  # int32: candidates, kept or not
    best: Array  # uint64: the key of the best pair decided; 0 for none

    @classmethod
    def of(cls, rows: Array, columns: Array, limits: np.ndarray, panel_rows: int) -> _State:
        xp = array_module(rows)
        n = rows.shape[0]
        return cls(
            rows,
            columns,
            limits,
            max(min(panel_rows, n), 1),
            xp.asarray(limits, np.int32),
            xp.full(n, -np.inf, np.float32),
            xp.zeros(n, np.int32),
            xp.zeros(n, np.uint64),
        )

    @property
    def d(self) -> int:
        return int(self.rows.shape[1])

    def panels(self, rows: slice) -> Iterator[slice]:
        """Parts of ``rows`` to multiply at once; rows that nothing precedes are left out."""
        first = max(rows.start, int(np.searchsorted(self.limits, 1)))
        for start in range(first, rows.stop, self.panel_rows):
            yield slice(start, min(start + self.panel_rows, rows.stop))

    def blocks(self, panel: slice, width: int) -> Iterator[tuple[slice, slice]]:
        """The rows of the panel that have predecessors in a block of columns, and that block; block after block."""
        limits = self.limits[panel]
        end = min(_round_up(int(limits[-1]), _ALIGNED), self.columns.shape[0])
        starts = range(0, int(limits[-1]), width)
        firsts = np.searchsorted(limits, starts, side="right") + panel.start
        for start, first in zip(starts, firsts.tolist(), strict=True):
            yield slice(first, panel.stop), slice(start, min(start + width, end))

    def decide(self, rows: slice, slack: float, candidates: _Candidates, overfull: Array) -> None:
        """Decides the candidates of some rows. Adds to ``overfull`` how many rows have more than were kept."""
        n = rows.stop - rows.start
        kernel = _kernel("decide", D=self.d)
        known = (self.rows, self.columns, rows.start, n, self.highest, slack, self.counts)
        _launch(kernel, -(-n // (_THREADS // 32)), *known, *candidates.arguments, self.best, overfull)

    def unpack(self) -> tuple[Array, Array]:
        """Scores and indices as ``max_similarity`` returns them."""
        xp = array_module(self.rows)
        n = self.best.shape[0]
        scores, indices = xp.empty(n, np.float32), xp.empty(n, np.int64)
        if n:
            kernel = _kernel("unpack", D=self.d)
            _launch(kernel, -(-n // _THREADS), self.best, n, scores, indices)
        return scores, indices


class _Candidates:
    """Room for pairs that may be a row's best: ``capacity`` columns for each of ``n`` rows, and their products."""

    def __init__(self, xp: ModuleType, n: int, capacity: int) -> None:
        self.arguments = (capacity, xp.empty((n, capacity), np.int32), xp.empty((n, capacity), np.float32))


def _screened(state: _State, precision: str, capacity: int) -> Array:
    """Decides all rows but those with more candidates than ``capacity``; returns on the device how many those are."""
    xp = array_module(state.rows)
    kind, n = KINDS[precision], state.rows.shape[0]
    overfull = xp.zeros(1, np.int32)
    rows = _operand(state.rows, kind)
    columns = rows if state.columns is state.rows else _operand(state.columns, kind)
    products = _Products(xp, kind, state)
    chunk_rows = max(shrink(_CHUNK_ROWS) // state.panel_rows, 1) * state.panel_rows
    candidates = _Candidates(xp, min(chunk_rows, n), capacity)
    margin = slack(state.d, precision)
    screen = _kernel("screen", PRODUCT_BYTES=np.dtype(kind.dtype).itemsize)
    known = (state.device_limits, margin, state.highest, state.counts, *candidates.arguments)
    for start in range(0, n, chunk_rows):
        chunk = slice(start, min(start + chunk_rows, n))
        for panel in state.panels(chunk):
            for part, block in state.blocks(panel, products.width):
                products.multiply(rows, part, columns, block)
                _launch(screen, part.stop - part.start, *products.place(part, block), start, *known)
        state.decide(chunk, margin, candidates, overfull)
    return overfull


def _bracketed(state: _State) -> None:
    """Decides all rows by float64 products, however many candidates there are."""
    xp = array_module(state.rows)
    kind = KINDS["float64"]
    overfull = xp.zeros(1, np.int32)  # stays 0: there is room for a whole block
    products = _Products(xp, kind, state)
    candidates = _Candidates(xp, state.panel_rows, products.width)
    error = float64_screening_error(state.d)
    bracket = _kernel("bracket", D=state.d)
    known = (state.device_limits, error, state.highest, state.counts, *candidates.arguments, state.best)
    for panel in state.panels(slice(0, state.rows.shape[0])):
        rows = _operand(state.rows[panel], kind)
        for part, block in state.blocks(panel, products.width):
            here = slice(part.start - panel.start, part.stop - panel.start)
            columns = _operand(state.columns[block], kind)
            products.multiply(rows, here, columns, slice(0, columns.shape[0]))
            _launch(bracket, part.stop - part.start, *products.place(part, block), *known)
            state.decide(part, 0.0, candidates, overfull)
            del columns  # before the next are made: there is room for one block and one panel
        del rows


def _operand(vectors: Array, kind: Kind) -> Array:
    """A side as it is multiplied: in the input type, rows filled up with zeros to the alignment."""
    n, d = vectors.shape
    width = _round_up(d, kind.alignment)
    if width == d:
        return vectors.astype(kind.dtype, copy=False)
    filled = array_module(vectors).zeros((n, width), kind.dtype)
    filled[:, :d] = vectors
    return filled


class _Products:
    """The workspace for one block of products, and the call of cuBLAS that fills it."""

    def __init__(self, xp: ModuleType, kind: Kind, state: _State) -> None:
        self._cublas, self._handle = _cublas()
        self._kind = kind
        self.width = _block_width(state, np.dtype(kind.dtype).itemsize)
        self._array = xp.empty((state.panel_rows, self.width), kind.dtype)
        self._compute = getattr(self._cublas, kind.compute)
        self._one, self._zero = ONE[kind.sums].ctypes.data, ZERO[kind.sums].ctypes.data

    def multiply(self, rows: Array, part: slice, columns: Array, block: slice) -> None:
        """Row i, column j of the workspace becomes ``rows[part][i] · columns[block][j]``.

        cuBLAS counts column by column, so what is a matrix of rows here is its transpose there: it is asked for
        columns · rowsᵀ, whose transpose this is.
        """
        blas, data_type, d = self._cublas, self._kind.cuda_type, rows.shape[1]
        row_bytes = d * self._array.itemsize
        blas.gemmEx(
            self._handle, blas.CUBLAS_OP_T, blas.CUBLAS_OP_N, block.stop - block.start, part.stop - part.start, d,
            self._one,
            _address(columns) + block.start * row_bytes, data_type, d,
            _address(rows) + part.start * row_bytes, data_type, d,
            self._zero,
            _address(self._array), data_type, self.width,
            self._compute, blas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def place(self, part: slice, block: slice) -> tuple[Any, ...]:
        """First arguments of a kernel that reads the products: pitch in units of 16 bytes, width, position."""
        pitch = self.width * self._array.itemsize // 16
        return self._array, pitch, block.stop - block.start, block.start, part.start


def _block_width(state: _State, itemsize: int) -> int:
    """Columns multiplied at once: no more than there are, than a block of threads reads, than the workspace holds, nor
    than stay in the cache with their products and the panel, where those are not so few that launching would tell."""
    most = min(16 * _VECTORS * _THREADS // itemsize, shrink(_BLOCK_BYTES) // (itemsize * state.panel_rows))
    cached = int(_CACHE_SHARE * _cache_bytes()) // itemsize - state.panel_rows * state.d
    fitting = cached // (state.panel_rows + state.d)
    most = fitting if most // 4 <= fitting < most else most
    return max(min(most // _ALIGNED * _ALIGNED, _round_up(state.columns.shape[0], _ALIGNED)), _ALIGNED)


def _cache_bytes() -> int:
    """Of the current GPU's L2 cache."""
    import cupy

    return int(cupy.cuda.Device().attributes["L2CacheSize"])


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _launch(kernel: Callable[..., None], blocks: int, *arguments: Any) -> None:
    kernel((blocks,), (_THREADS,), arguments)


def _address(array: Array) -> int:
    return int(array.data.ptr)


def _cublas() -> tuple[Any, int]:
    """CuPy's cuBLAS functions, and this thread's handle on the current device."""
    import cupy
    from cupy_backends.cuda.libs import cublas  # type: ignore[import-not-found, unused-ignore]

    return cublas, cupy.cuda.device.get_cublas_handle()


@contextmanager
def _cublas_settings() -> Iterator[None]:
    """The handle is CuPy's, so its mode is set back at the end."""
    cublas, handle = _cublas()
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, _REDUCE_IN_ACCUMULATORS_TYPE)
    try:
        yield
    finally:
        cublas.setMathMode(handle, before)


def _kernel(name: str, **macros: int) -> Callable[..., None]:
    """A kernel of ``max_similarity.cu``, compiled once for each device (CuPy keeps it on disk, too)."""
    import cupy

    return _compiled(cupy.cuda.Device().id, compile_options(**macros))(name)


@functools.cache
def _compiled(device: int, options: tuple[str, ...]) -> Callable[[str], Callable[..., None]]:
    import cupy

    try:
        module = cupy.RawModule(code=SOURCE, options=options)
        module.compile()
    except Exception as error:  # of CuPy's compiler, of NVRTC, of the driver that loads what was compiled
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SemDedupError(
            f"the kernels cannot be compiled for GPU {device} ({why}): set precision to generic, which does without "
            "them, and please report it"
        ) from error
    return functools.cache(module.get_function)


def compile_options(**macros: int) -> tuple[str, ...]:
    """For the part of the source with these macros: ``PRODUCT_BYTES`` or ``D``."""
    macros |= {"THREADS": _THREADS, "VECTORS": _VECTORS}
    return tuple(f"-D{name}={value}" for name, value in macros.items())
