// CUDA C++ of launch.py: what is done with each block of products, and what a dot product is on a GPU.
//
// Compiled at run time, in two parts: with `PRODUCT_BYTES` (2: products are float16, 4: float32) what reads screened
// products, with `D` (the vectors' dimension) the rest. `THREADS` per block and `VECTORS` (16-byte loads per thread:
// what one block of threads reads of a row) are macros too. Nothing but the language, the compiler's own functions and
// three PTX instructions is used, so no header is needed, and the same text compiles as C++ for a CPU beside definitions
// of those functions (`tests/kernels/emulator.h`).
//
// CuPy compiles with `-ftz=true` (`cupy/cuda/compiler.py`, 14.2), which makes zeros of subnormal float32 numbers, in
// conversions too. Those that decide are therefore written in PTX, where nothing is flushed unless an instruction says so.
// Comparisons may flush: that never turns the order of two numbers round.
//
// Every kernel takes pointers, `long long` and `double` only, 8 bytes each: CuPy passes a Python int and a Python
// float as just that.

typedef long long i64;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define MINUS_INFINITY __uint_as_float(0xff800000u)

#ifdef __CUDACC_RTC__
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ double widened(float value) {
    double wide;
    asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(value));
    return wide;
}
__device__ __forceinline__ float rounded(double value) {
    float narrow;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(narrow) : "d"(value));
    return narrow;
}
#endif

__device__ __forceinline__ int smaller(i64 a, i64 b) { return (int)(a < b ? a : b); }

// The largest value of all threads of a block. No thread returns before all have called.
__device__ __forceinline__ float block_max(float mine, float* warp_max) {
    for (int h = WARP / 2; h > 0; h /= 2) mine = fmaxf(mine, __shfl_xor_sync(ALL_LANES, mine, h));
    if (threadIdx.x % WARP == 0) warp_max[threadIdx.x / WARP] = mine;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; ++w) mine = fmaxf(mine, warp_max[w]);
    return mine;
}

// A candidate of a row, put where no other is. The order is chance: nothing that follows depends on it.
__device__ __forceinline__ void append(int* count, i64 capacity, i64 buffer, i64 column, float value,
                                       int* candidate_columns, float* candidate_values) {
    const int slot = atomicAdd(count, 1);
    if (slot < capacity) {
        candidate_columns[buffer * capacity + slot] = (int)column;
        candidate_values[buffer * capacity + slot] = value;
    }
}

#ifdef PRODUCT_BYTES  // --- reading screened products ---

#define PER_WORD (4 / PRODUCT_BYTES)
#define PER_VECTOR (16 / PRODUCT_BYTES)

// One of the products in 16 bytes.
__device__ __forceinline__ float product(const uint4& words, int k) {
    const int w = k / PER_WORD;
    const unsigned word = w < 2 ? (w == 0 ? words.x : words.y) : (w == 2 ? words.z : words.w);
#if PRODUCT_BYTES == 2
    return half_to_float(word >> (16 * (k % 2)) & 0xffffu);
#else
    return __uint_as_float(word);
#endif
}

// The largest of the first n products in 16 bytes, n at least 1.
__device__ __forceinline__ float vector_max(const uint4& words, int n) {
    float most = product(words, 0);
    if (n >= PER_VECTOR) {
#pragma unroll
        for (int k = 1; k < PER_VECTOR; ++k) most = fmaxf(most, product(words, k));
    } else {
        for (int k = 1; k < n; ++k) most = fmaxf(most, product(words, k));
    }
    return most;
}

// One block of threads per row: raises the row's highest screened product, and keeps what lies within the slack of it.
extern "C" __global__ void __launch_bounds__(THREADS)
screen(const uint4* products, i64 pitch, i64 width, i64 first_column, i64 first_row, i64 first_buffered,
       const int* limits, double slack, float* highest, int* counts, i64 capacity, int* candidate_columns,
       float* candidate_values) {
    __shared__ float warp_max[THREADS / WARP];
    const i64 row = first_row + blockIdx.x;
    const int n = smaller(width, limits[row] - first_column);  // columns of this block that precede the row
    if (n <= 0) return;
    const float before = highest[row];
    const uint4* line = products + blockIdx.x * pitch;
    uint4 read[VECTORS];  // all on their way before the first is used
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        const int at = v * THREADS + threadIdx.x;
        read[v] = at * PER_VECTOR < n ? line[at] : line[0];  // the row's own first products change no maximum
    }
    float mine = MINUS_INFINITY;
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        const int at = (v * THREADS + threadIdx.x) * PER_VECTOR;
        mine = fmaxf(mine, vector_max(read[v], at < n ? n - at : n));
    }
    const float most = fmaxf(before, block_max(mine, warp_max));
    const float threshold = most - rounded(slack);
    if (threadIdx.x == 0) {
        highest[row] = most;
        if (before < threshold) counts[row] = 0;  // all that were kept so far fell out of the slack
    }
    __syncthreads();
    if (mine < threshold) return;  // nearly all threads; the others read once more, from the cache
    for (int at = threadIdx.x; at * PER_VECTOR < n; at += THREADS) {
        const uint4 words = line[at];
        for (int k = 0; k < PER_VECTOR && at * PER_VECTOR + k < n; ++k) {
            const float value = product(words, k);
            if (value >= threshold)
                append(counts + row, capacity, row - first_buffered, first_column + at * PER_VECTOR + k, value,
                       candidate_columns, candidate_values);
        }
    }
}

#endif
#ifdef D  // --- what a dot product is, and deciding by it ---

__device__ constexpr int padded(int d, int size = 1) { return size < d ? padded(d, 2 * size) : size; }
constexpr int SIZE = padded(D);                       // of the tree
constexpr int LANES = SIZE < WARP ? SIZE : WARP;      // lanes that hold a part of it

// x[:h] + x[h:], h halving, ends in the sum of the even places plus the sum of the odd ones, each such a tree itself.
// This is the part of it over places START, START + STRIDE, ... past each lane's own.
template <int COUNT, int START, int STRIDE>
struct Tree {
    static __device__ __forceinline__ double sum(const float* x, const float* y, int lane) {
        return __dadd_rn(Tree<COUNT / 2, START, 2 * STRIDE>::sum(x, y, lane),
                         Tree<COUNT / 2, START + STRIDE, 2 * STRIDE>::sum(x, y, lane));
    }
};

template <int START, int STRIDE>
struct Tree<1, START, STRIDE> {
    // Exact: 24 + 24 bits fit into 53. (So a fused multiply-add would change nothing either; none is asked for.)
    static __device__ __forceinline__ double sum(const float* x, const float* y, int lane) {
        const int i = START + lane;
        return i < D ? __dmul_rn(widened(x[i]), widened(y[i])) : 0.0;
    }
};

// The exact dot product (arithmetic.py), by the 32 lanes of a warp; lane 0 has the result. Places below SIZE that D does not fill are zeros and
// are added, as they must: -0 + 0 is +0. Lanes that SIZE does not fill take no part.
__device__ __forceinline__ float exact_dot(const float* x, const float* y, int lane) {
    double sum = Tree<SIZE / LANES, 0, WARP>::sum(x, y, lane);
    for (int h = LANES / 2; h > 0; h /= 2) sum = __dadd_rn(sum, __shfl_down_sync(ALL_LANES, sum, h));
    return rounded(sum);
}

// A pair's rank among those of a row: the larger the better. The score's bits, so that they order as numbers do; then
// the column, an earlier one counting more; last whether the score is -0, which ties with +0 and so may decide nothing.
__device__ __forceinline__ u64 key_of(float score, i64 column) {
    unsigned bits = __float_as_uint(score);
    const unsigned negative_zero = bits == 0x80000000u;
    if (negative_zero) bits = 0;
    const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u64)(0x7fffffffu - (unsigned)column) << 1 | negative_zero;
}

// One warp per row: the best of its candidates that are still within the slack of the highest. A row with more
// candidates than were kept is counted instead, and left as it is.
extern "C" __global__ void __launch_bounds__(THREADS)
decide(const float* rows, const float* columns, i64 first_row, i64 n, const float* highest, double slack,
       const int* counts, i64 capacity, const int* candidate_columns, const float* candidate_values, u64* best,
       int* overfull) {
    const i64 buffer = blockIdx.x * (i64)(THREADS / WARP) + threadIdx.x / WARP;
    const int lane = threadIdx.x % WARP;
    if (buffer >= n) return;
    const i64 row = first_row + buffer;
    const int count = counts[row];
    if (count > capacity) {
        if (lane == 0) atomicAdd(overfull, 1);
        return;
    }
    const float threshold = highest[row] - rounded(slack);
    u64 most = best[row];
    for (i64 c = buffer * capacity; c < buffer * capacity + count; ++c) {
        if (candidate_values[c] < threshold) continue;
        const i64 column = candidate_columns[c];
        const u64 key = key_of(exact_dot(rows + row * D, columns + column * D, lane), column);
        if (key > most) most = key;
    }
    if (lane == 0) best[row] = most;
}

// One block of threads per row of float64 products: where both ends of the error bound round to the same float32, that
// is the exact score; where not, and the score may be the row's best, the pair is a candidate. There is room for all.
// (Such a score is never zero: bounds on either side of zero round to numbers of different sign.)
extern "C" __global__ void __launch_bounds__(THREADS)
bracket(const double* products, i64 pitch, i64 width, i64 first_column, i64 first_row, const int* limits, double error,
        float* highest, int* counts, i64 capacity, int* candidate_columns, float* candidate_values, u64* best) {
    __shared__ float warp_max[THREADS / WARP];
    const i64 row = first_row + blockIdx.x;
    const int n = smaller(width, limits[row] - first_column);
    const float before = highest[row];
    const double* line = products + 2 * blockIdx.x * pitch;
    float low = MINUS_INFINITY;
    for (int j = threadIdx.x; j < n; j += THREADS) low = fmaxf(low, rounded(line[j] - error));
    const float most = fmaxf(before, block_max(low, warp_max));
    if (threadIdx.x == 0) {
        highest[row] = most;
        counts[row] = 0;
    }
    __syncthreads();
    u64 sure = 0;
    for (int j = threadIdx.x; j < n; j += THREADS) {
        const float lower = rounded(line[j] - error), upper = rounded(line[j] + error);
        if (upper < most) continue;
        if (lower == upper) {
            const u64 key = key_of(upper, first_column + j);
            if (key > sure) sure = key;
        } else {
            append(counts + row, capacity, blockIdx.x, first_column + j, upper, candidate_columns, candidate_values);
        }
    }
    if (sure) atomicMax(best + row, sure);
}

// Scores and columns of the best keys; 0 and -1 where there is none.
extern "C" __global__ void __launch_bounds__(THREADS)
unpack(const u64* best, i64 n, float* scores, i64* indices) {
    const i64 row = blockIdx.x * (i64)THREADS + threadIdx.x;
    if (row >= n) return;
    const u64 key = best[row];
    const unsigned ordered = (unsigned)(key >> 32);
    const unsigned bits = ordered >> 31 ? ordered & 0x7fffffffu : ~ordered;
    scores[row] = key == 0 ? 0.0f : key & 1 ? -0.0f : __uint_as_float(bits);
    indices[row] = key == 0 ? -1 : (i64)(0x7fffffffu - (unsigned)(key >> 1 & 0x7fffffffu));
}

#endif
