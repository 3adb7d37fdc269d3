"""The GPU's code without a GPU: compiled for the CPU and run against brute force; compiled by NVIDIA's compiler.

What a GPU itself adds (its memory, its scheduler, cuBLAS, CuPy) is tested where there is one, by the other modules of
this folder with the ``gpu`` marker.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import re
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import vectors
from kernels import emulation
from marks import slow

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels import arrays
from spark_semdedup.kernels import similarity as pairwise
from spark_semdedup.kernels.arithmetic import screening_error
from spark_semdedup.kernels.cuda import launch as cuda

PRECISIONS = ["float16", "float32", "float64"]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    if emulation.CPLUSPLUS is None:
        pytest.skip("no C++ compiler (g++ or clang++)")
    return emulation.Compiler(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def small(monkeypatch):
    """Small blocks of threads, of products and of rows, so that small inputs have many of each."""
    for name, value in {"_THREADS": 64, "_VECTORS": 2, "_BLOCK_BYTES": 1 << 15, "_CHUNK_ROWS": 100}.items():
        monkeypatch.setattr(cuda, name, value)


@pytest.fixture
def device(compiler, small, monkeypatch):
    return emulation.Device(compiler).install(monkeypatch)


def found(rows, columns=None, limits=None, *, batch_size=64, precision="float16", capacity=32):
    columns = rows if columns is None else columns
    limits = np.arange(len(rows)) if limits is None else limits
    return cuda.max_similarity_on_gpu(
        rows, columns, limits, batch_size=batch_size, precision=precision, capacity=capacity
    )


def check(rows, columns=None, limits=None, **arguments) -> None:
    scores, indices = found(rows, columns, limits, **arguments)
    columns = rows if columns is None else columns
    limits = np.arange(len(rows)) if limits is None else limits
    for i, limit in enumerate(limits):
        if limit == 0:
            expected = np.float32(0), -1
        else:
            exact = oracle.tree_add((rows[i].astype(np.float64) * columns[:limit]).T).astype(np.float32)
            expected = exact[exact.argmax()], exact.argmax()
        assert indices[i] == expected[1], (i, limit, arguments)
        assert oracle.same_bits(scores[i : i + 1], expected[0][None]), (i, limit, arguments)


# --- against brute force ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, *map(slow, (2, 3, 5, 16)), 33, slow(384), 768, slow(1000), slow(4096)])
@pytest.mark.parametrize("kind", ["random", "last_bit", "skewed"])
def test_equals_brute_force_in_every_dimension(device, kind, d):
    for precision in PRECISIONS:
        check(vectors.make(kind, 150, d), precision=precision)


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("batch_size", [slow(7), 64, slow(10**6)])
def test_equals_brute_force_for_every_kind_of_rows(device, kind, batch_size):
    rows = vectors.make(kind, 300, 16)
    for precision in PRECISIONS:
        check(rows, batch_size=batch_size, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "near_duplicates", "last_bit"])
def test_blocks_of_threads_as_large_as_on_a_gpu(compiler, monkeypatch, kind):
    """Of 256 threads, 32 kB of a row each: a row of 9,000 float32 products takes two of them."""
    emulation.Device(compiler).install(monkeypatch)
    rows, columns = vectors.make(kind, 40, 16), vectors.make(kind, 9000, 16, seed=1)
    limits = np.linspace(0, 9000, 40).astype(int)
    for precision in PRECISIONS:
        check(rows, columns, limits, batch_size=1024, precision=precision)


@pytest.mark.parametrize("kind", vectors.KINDS)
@pytest.mark.parametrize("capacity", [0, slow(1), 3])
def test_rows_with_more_candidates_than_are_kept(device, kind, capacity):
    rows = vectors.make(kind, 200, 16)
    for precision in PRECISIONS:
        check(rows, precision=precision, capacity=capacity)
    if capacity == 0:
        assert "bracket" in device.launched


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "last_bit", "collinear"])
def test_thousands_of_rows_that_are_all_candidates(device, kind):
    rows = vectors.make(kind, 1200, 3)
    scores, indices = found(rows, batch_size=1024)
    expected = oracle.max_similarities(rows, range(len(rows)))
    assert oracle.same_bits(indices[1:], expected.neighbour[1:])
    assert oracle.same_bits(scores, expected.score)
    assert device.launched.count("bracket") > 10


def test_rows_that_are_too_full_are_held_once(device, monkeypatch):
    """Not those that float32 found too full beside those that it was given: ``device_bytes`` counts one copy."""
    bracketed, held = cuda._bracketed, []

    def measured(state):
        held.append(tracemalloc.get_traced_memory()[0])
        bracketed(state)

    monkeypatch.setattr(cuda, "_bracketed", measured)
    rows = vectors.make("equal", 400, 256)
    found(rows, capacity=3)  # compiles and imports
    tracemalloc.start()
    try:
        found(rows, capacity=3)
    finally:
        tracemalloc.stop()
    assert device.launched.count("unpack") == 2 * 3  # float16, float32, float64
    assert 0.9 < held[1] / rows.nbytes < 1.3


def test_full_rows_are_few_where_a_few_are_too_full(device):
    """Only the rows that are too full are looked at again."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([vectors.make("random", 300, 33), vectors.make("equal", 50, 33, seed=1)])
    rows = rows[rng.permutation(len(rows))]
    check(rows, batch_size=1024)
    assert device.launched.count("unpack") == 3  # float16, float32, float64
    blocks = -(-50 // (cuda._BLOCK_BYTES // (8 * 50)))  # no more than 50 rows took part in the last
    assert 0 < device.launched.count("bracket") <= 6 * blocks


def test_candidates_that_fell_out_of_the_slack_make_room(device):
    """Each block of columns is far more similar than the one before, and fills most of what is kept."""
    query = np.zeros((1, 2), np.float32)
    query[0, 0] = 1
    angles = np.repeat(np.linspace(1.5, 0.1, 40), 64) + np.tile(np.linspace(0, 1e-7, 64), 40)
    columns = oracle.unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    for precision in ("float16", "float32"):
        device.launched.clear()
        check(query, columns, np.array([len(columns)]), batch_size=256, precision=precision, capacity=70)
        assert "bracket" not in device.launched


@pytest.mark.parametrize("kind", ["random", "lattice", "last_bit"])
@pytest.mark.parametrize("batch_size", [slow(1), 7, slow(64)])
def test_any_limits_that_never_decrease(device, kind, batch_size):
    rng = np.random.default_rng(batch_size)
    rows, columns = vectors.make(kind, 70, 20), vectors.make(kind, 430, 20, seed=1)
    for highest in (0, 3, 65, 430):
        limits = np.sort(rng.integers(0, highest + 1, size=len(rows)))
        for precision in PRECISIONS:
            check(rows, columns, limits, batch_size=batch_size, precision=precision)


def test_blocks_without_predecessors_are_not_multiplied(device, monkeypatch):
    products = []
    multiply = cuda._Products.multiply

    def counting(self, rows, part, columns, block):
        products.append((part.stop - part.start) * (block.stop - block.start))
        multiply(self, rows, part, columns, block)

    monkeypatch.setattr(cuda._Products, "multiply", counting)
    check(vectors.make("random", 1000, 16), batch_size=50)
    assert sum(products) < 1.15 * 1000 * 1000 / 2
    products.clear()
    check(vectors.make("random", 10, 16), vectors.make("random", 990, 16), np.repeat([0, 990], 5), batch_size=50)
    assert sum(products) == 5 * 990


@pytest.mark.parametrize(
    ("mib", "rows", "d", "width"),
    [
        (50, 1024, 768, 11_264),  # H100: products, columns and rows take 40 MiB of it
        (40, 1024, 768, 8896),  # A100
        (126, 1024, 768, 16_384),  # B200: as many as the workspace holds
        (6, 1024, 768, 16_384),  # V100: what would stay in the cache is too little to launch for
        (50, 64, 64, 16_384),  # as many as a block of threads reads
        (50, 1024, 4096, 16_384),  # the columns alone are too many bytes for it
    ],
)
def test_blocks_fit_the_cache_of_the_gpu(monkeypatch, mib, rows, d, width):
    monkeypatch.setattr(cuda, "_cache_bytes", lambda: mib << 20)
    state = SimpleNamespace(panel_rows=rows, d=d, columns=np.empty((100_000, 1)))
    assert cuda._block_width(state, 2) == width


def test_a_kernel_that_cannot_be_compiled_names_the_way_out(monkeypatch):
    def raw_module(**_):
        raise RuntimeError("nvrtc: error: invalid value for --gpu-architecture\nmore")

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawModule=raw_module))
    with pytest.raises(SemDedupError, match=r"for GPU 3 \(nvrtc: .*gpu-architecture\): set precision to generic"):
        cuda._compiled(3, ("-DNEVER_USED_ELSEWHERE=1",))


def test_no_columns_and_no_rows(device):
    some, none = np.ones((4, 2), np.float32), np.zeros((0, 2), np.float32)
    scores, indices = found(some, none, np.zeros(4, np.int64))
    assert (scores.tolist(), indices.tolist()) == ([0] * 4, [-1] * 4)
    scores, indices = found(none, some, np.zeros(0, np.int64))
    assert (scores.shape, indices.shape) == ((0,), (0,))
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    "n", [1, *map(slow, (2, 31, 33, 63)), 64, 65, *map(slow, (99, 100)), 101, *map(slow, (127, 128, 129, 200))]
)
def test_numbers_of_rows_at_the_edges_of_warps_panels_and_chunks(device, n):
    for precision in PRECISIONS:
        check(vectors.make("last_bit", n, 5), precision=precision)


@pytest.mark.parametrize("d", [7, 8, *map(slow, (9, 15, 17, 31, 32, 64, 65))])
def test_dimensions_at_the_edges_of_what_cublas_wants_aligned(device, d):
    for precision in PRECISIONS:
        check(vectors.make("near_duplicates", 70, d), precision=precision)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_limits_at_the_edges_of_blocks(device, off):
    """Blocks have 64, 128 or 256 columns here."""
    rows, columns = vectors.make("last_bit", 9, 16), vectors.make("last_bit", 600, 16, seed=1)
    limits = np.clip(np.array([0, 64, 128, 192, 256, 320, 512, 576, 600]) + off, 0, 600)
    for precision in PRECISIONS:
        check(rows, columns, limits, precision=precision)


def placed(x: np.ndarray, offset: int) -> np.ndarray:
    """A copy that begins so many numbers behind an address that 64 bytes divide."""
    raw = np.zeros(x.size + 32, np.float32)
    start = -(raw.ctypes.data // 4) % 16 + offset
    copy = raw[start : start + x.size].reshape(x.shape)
    copy[...] = x
    return copy


LAYOUTS = {
    "every second row and number": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2],
    "from the last to the first": lambda x: x[::-1].copy()[::-1],
    "by columns": np.asfortranarray,
    "a part of longer rows": lambda x: np.hstack([x, x])[:, x.shape[1] :],
    "the end of an array": lambda x: np.vstack([x, x])[len(x) :],
    "one number off": lambda x: placed(x, 1),
    "three numbers off": lambda x: placed(x, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_columns_however_they_lie_in_memory(device, layout):
    rows, columns = vectors.make("random", 100, 33), vectors.make("random", 150, 33, seed=1)
    limits = np.minimum(np.arange(100) * 2, 150)
    for precision in PRECISIONS:
        check(LAYOUTS[layout](rows), LAYOUTS[layout](columns), limits, precision=precision)


def test_threads_at_once_have_a_handle_and_a_workspace_each(device):
    """CuPy has a handle, and its mode, for each thread; all else that calls share is constant."""
    inputs = [vectors.make(kind, 150, 16, seed=i) for i, kind in enumerate(["random", "last_bit", "equal", "skewed"])]
    expected = [found(rows) for rows in inputs]
    with ThreadPoolExecutor(len(inputs)) as pool:
        for _ in range(3):
            for (scores, indices), one in zip(pool.map(found, inputs), expected, strict=True):
                assert oracle.same_bits(scores, one[0])
                assert oracle.same_bits(indices, one[1])


def test_a_zero_score_has_the_sign_of_the_similarity_it_is(device):
    rows = np.array([[-0.0, -1], [0, 1], [1, 0], [-1, 0], [1, 0]], np.float32)
    for order in ([0, 1, 2], [1, 0, 2], [0, 1, 3], [1, 0, 3]):
        for precision in PRECISIONS:
            for capacity in (0, 32):
                check(rows[order], precision=precision, capacity=capacity)


def test_the_order_in_which_threads_run_and_how_products_are_off_change_nothing(compiler, small, monkeypatch):
    rows = vectors.make("near_duplicates", 250, 16)
    launched = set()
    for seed in range(5):
        device = emulation.Device(compiler, seed).install(monkeypatch)
        for capacity in (2, 32):
            scores, indices = found(rows, capacity=capacity)
            launched.add((scores.tobytes(), indices.tobytes()))
        assert device.launched
    assert len(launched) == 1


def test_the_mode_of_cupys_handle_is_set_back(device):
    rows = vectors.make("random", 20, 16)
    device.blas.setMathMode(1, 3)
    found(rows)
    assert device.blas.getMathMode(1) == 3
    with pytest.raises(KeyError):
        found(rows, precision="float8")
    assert device.blas.getMathMode(1) == 3


def test_any_vectors_equal_brute_force(device):
    hypothesis = pytest.importorskip("hypothesis")
    st, arrays = hypothesis.strategies, pytest.importorskip("hypothesis.extra.numpy").arrays
    few = st.sampled_from([-1.0, -0.5, -1e-30, -0.0, 0.0, 1e-45, 1e-8, 0.5, 1.0, 1 + 2**-23])
    numbers = few | st.floats(min_value=-1, max_value=1, width=32)
    shapes = st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 3, 5]))
    matrices = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=numbers))

    @hypothesis.settings(max_examples=80, deadline=None)
    @hypothesis.given(
        rows=matrices,
        batch_size=st.integers(1, 14),
        precision=st.sampled_from(PRECISIONS),
        capacity=st.sampled_from([0, 1, 32]),
    )
    def check_any(rows, batch_size, precision, capacity):
        rows = rows[rows.any(axis=1)]
        if len(rows):
            check(oracle.unit_vectors(rows), batch_size=batch_size, precision=precision, capacity=capacity)

    check_any()


@pytest.mark.parametrize("d", [4096, 4097])
def test_cupy_arrays_go_this_way_up_to_the_largest_dimension(device, monkeypatch, d):
    monkeypatch.setattr(pairwise, "array_module", lambda array: device.memory)
    monkeypatch.setattr(pairwise, "_CANDIDATES_PER_ROW", 0)
    rows = vectors.make("random", 3, d)
    if d > cuda.MAX_DIMENSION:
        with pytest.raises(AttributeError, match="Memory"):  # the array code wants more of CuPy than is here
            pairwise.max_similarity(rows, rows, np.arange(3))
        return
    scores, indices = pairwise.ranked_max_similarity(rows, precision="float16")
    expected = oracle.max_similarities(rows, range(3))
    assert oracle.same_bits(scores, expected.score)
    assert oracle.same_bits(indices, expected.neighbour)
    assert "bracket" in device.launched


# --- single kernels -----------------------------------------------------------------------------------------


def decided(device, rows, columns):
    """The exact score of each row with the column of the same number, and that number."""
    n, d = rows.shape
    best, overfull = np.zeros(n, np.uint64), np.zeros(1, np.int32)
    candidates = np.ones(n, np.int32), 1, np.arange(n, dtype=np.int32), np.ones(n, np.float32)
    grid = (-(-n // (cuda._THREADS // 32)),)
    block = (cuda._THREADS,)
    known = (rows, columns, 0, n, np.ones(n, np.float32), 0.5)
    device.kernel("decide", D=d)(grid, block, (*known, *candidates, best, overfull))
    scores, indices = np.empty(n, np.float32), np.empty(n, np.int64)
    device.kernel("unpack", D=d)((-(-n // cuda._THREADS),), block, (best, n, scores, indices))
    assert not overfull[0]
    return scores, indices, best


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 16, 33, 384, 1000])
def test_a_dot_product_is_the_fixed_tree_of_exact_products(device, d):
    """Terms of all sizes that cancel but for their rounding errors, so that every other order of adding shows; then
    subnormal numbers and zeros of either sign, which a GPU told to flush would lose."""
    rng = np.random.default_rng(d)
    half = (2.0 ** rng.integers(-30, 30, size=(400, d)) * rng.normal(size=(400, d))).astype(np.float32)
    mirrored = np.arange(d) % max(d // 2, 1)
    a, b = (np.ascontiguousarray(side[:, mirrored]) for side in (half, half[::-1]))
    b[:, d // 2 :] *= -1
    for x, y in zip(a, b, strict=True):
        order = rng.permutation(d)
        x[:], y[:] = x[order], y[order]
    a[:50] = a[:50] * np.float32(2**-60) * np.float32(2**-80)
    a[50:100] *= rng.choice(np.array([0, -0.0, 1], np.float32), size=(50, d))
    a[-1], b[-1] = 0, -0.0
    scores, indices, _ = decided(device, a, b)
    expected = np.array([oracle.similarity(x, y) for x, y in zip(a, b, strict=True)])
    assert np.isfinite(expected).all()
    assert oracle.same_bits(scores, expected)
    assert (indices == np.arange(400)).all()


def test_keys_order_pairs_as_the_contract_does(device):
    values = [-np.inf, -1.0, -1e-30, -1e-45, -0.0, 0.0, 1e-45, 1e-30, 1.0, 1 + 2**-23]
    a = np.array([values[1:-1]] * 2, np.float32).T.reshape(-1, 1).copy()  # each value twice, one column after the other
    scores, indices, keys = decided(device, a, np.ones_like(a))
    assert oracle.same_bits(scores, a[:, 0])
    ranks = [(float(s) + 0.0, -int(i)) for s, i in zip(scores, indices, strict=True)]  # −0 + 0 is 0
    assert sorted(range(len(a)), key=ranks.__getitem__) == np.argsort(keys, kind="stable").tolist()


# --- bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "skewed", "tiny_components", "last_bit", "lattice"])
@pytest.mark.parametrize("d", [1, 3, 33, 384, 4096])
def test_screened_products_are_within_half_the_slack(kind, d):
    """Rounded inputs, sums off by as much as tensor cores may be, stored as float16 rounded up or down."""
    rows = vectors.make(kind, 60, d)
    exact = np.array([[oracle.dot(a, b) for b in rows] for a in rows]) if d < 1000 else rows.astype(np.float64) @ rows.T
    half = rows.astype(np.float16).astype(np.float64)
    gamma = (d + 4) * 4 * 2.0**-24
    for sign in (-1, 1):
        sums = half @ half.T + sign * gamma * (np.abs(half) @ np.abs(half).T)
        stored = np.nextafter(sums.astype(np.float16), np.float16(sign * np.inf)).astype(np.float64)
        stored = np.where(np.abs(stored - sums) < np.spacing(np.float16(1)), stored, sums.astype(np.float16))
        assert np.abs(stored - exact).max() < cuda.slack(d, "float16") / 2
        assert np.abs(sums - half @ half.T).max() < screening_error(d, "float16", tensor_cores=True)
    assert cuda.slack(d, "float16") < 2 * (2 * 2.0**-10 + 8 * d * 2.0**-24 + 3e-6)


def test_a_stored_product_moves_by_less_than_the_bound_says():
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = np.unique(bits[np.isfinite(bits) & (np.abs(bits) <= 1.01)].astype(np.float64))
    assert np.diff(values).max() <= cuda._HALF_STORED


# --- the real compiler, the real CuPy ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nvrtc():
    spec = importlib.util.find_spec("nvidia")  # CUDA 12's packages are in nvidia.cuda_nvrtc, 13's in nvidia.cu13
    folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    libraries = [path for folder in folders for path in folder.glob("cu*/lib/libnvrtc.so.*")]
    names = [ctypes.util.find_library("nvrtc"), *libraries]
    if not any(names):
        pytest.skip("NVIDIA's run-time compiler (libnvrtc) is not installed")
    return ctypes.CDLL(str(next(filter(None, names))))


def compiled_ptx(nvrtc, architecture: str, source: str = cuda.SOURCE, **macros: int) -> str:
    program = ctypes.c_void_p()
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", "-ftz=true", *cuda.compile_options(**macros)]
    failed = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    )
    assert not failed, nvrtc_text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    ptx = nvrtc_text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx


def nvrtc_text(size_of, get, program) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    get(program, text)
    return text.value.decode()


def supported_architectures(nvrtc) -> list[int]:
    count = ctypes.c_int()
    assert not nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    architectures = (ctypes.c_int * count.value)()
    assert not nvrtc.nvrtcGetSupportedArchs(architectures)
    return list(architectures)


@pytest.mark.parametrize("number", [70, 75, 80, 86, 89, 90, 100, 103, 120])
def test_nvidias_compiler_takes_the_source_as_cupy_gives_it(nvrtc, number):
    if number not in supported_architectures(nvrtc):
        pytest.skip(f"this release of NVIDIA's compiler does not compile for compute_{number}")
    architecture = f"compute_{number}"
    for macros in ({"PRODUCT_BYTES": 2}, {"PRODUCT_BYTES": 4}, {"D": 1}, {"D": 5}, {"D": 768}):
        ptx = compiled_ptx(nvrtc, architecture, **macros)
        assert set(re.findall(r"\.entry (\w+)\(", ptx)) == (
            {"screen"} if "PRODUCT_BYTES" in macros else {"decide", "bracket", "unpack"}
        )


def test_no_conversion_flushes_and_nothing_is_fused(nvrtc):
    """CuPy's own option is -ftz=true: then (double)x of a subnormal float32 x is 0."""
    ptx = compiled_ptx(nvrtc, "compute_90", D=5)
    assert re.findall(r"cvt\S*f32\.f64|cvt\S*f64\.f32", ptx)
    assert not re.findall(r"cvt\S*ftz\S*", ptx)
    assert not re.findall(r"fma\S*f64", ptx)


@pytest.mark.parametrize("name", arrays.OPERATIONS)
def test_elementwise_conversions_do_not_flush(nvrtc, name):
    """As CuPy wraps them: arguments are references to elements, the operation is a statement among others."""
    types = {"float32": "float", "float64": "double"}
    inputs, output, operation = arrays.OPERATIONS[name]
    named = [argument.split() for argument in (*inputs.split(", "), output)]
    parameters = ", ".join(f"{types[kind]}* {letter}s" for kind, letter in named)
    references = " ".join(f"{types[kind]}& {letter} = {letter}s[threadIdx.x];" for kind, letter in named)
    source = f'extern "C" __global__ void wrapped({parameters}) {{ {references} {operation}; }}'
    expected = "cvt.rn.f32.f64" if name == "rounded" else "cvt.f64.f32"
    assert set(re.findall(r"cvt\.\S*", compiled_ptx(nvrtc, "compute_90", source))) == {expected}
    naive = source.replace(operation, "y = x" if "x" in inputs else "y = (double)a * b")
    assert "ftz" in "".join(re.findall(r"cvt\.\S*", compiled_ptx(nvrtc, "compute_90", naive)))


def test_cupy_has_what_is_used_of_it():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    libraries = pytest.importorskip("cupy_backends.cuda.libs")
    try:
        cublas = libraries.cublas
    except ImportError as error:
        pytest.skip(f"cuBLAS is not installed: {error}")
    fake = emulation.Cublas
    for name in [name for name in vars(fake) if name.startswith("CUBLAS")]:
        assert getattr(cublas, name) == getattr(fake, name)
    for name in ("gemmEx", "getMathMode", "setMathMode"):
        assert callable(getattr(cublas, name))
    for kind, constant in {"float16": "CUDA_R_16F", "float32": "CUDA_R_32F", "float64": "CUDA_R_64F"}.items():
        assert cuda.KINDS[kind].cuda_type == getattr(cupy.cuda.runtime, constant)
    assert callable(cupy.cuda.device.get_cublas_handle)
    assert callable(cupy.RawModule.get_function)
