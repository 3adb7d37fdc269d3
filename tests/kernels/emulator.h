// Enough of CUDA to run cuda_source.py on a CPU: one block of threads after another, its threads as coroutines that
// take turns in an order drawn at random, at barriers, shuffles and atomics. What CUDA leaves undefined is an error.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct uint4 { unsigned x, y, z, w; };
struct Position { unsigned x; };
static Position threadIdx, blockIdx;

// --- threads ---

enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };

struct Thread {
    ucontext_t start;
    jmp_buf place;  // where it waits; unlike a context this is left and entered without asking the system
    bool started;
    std::vector<char> stack;
    State state;
    unsigned shuffles;  // so far
};

static std::vector<Thread> threads(THREADS);
static jmp_buf scheduler;
static uint64_t chance;
static std::string failure;
static void (*body)(void**);
static void** body_arguments;
static uint64_t exchanged[THREADS / 32][2][32];

__attribute__((noinline)) static void pause_as(State state) {
    Thread& self = threads[threadIdx.x];
    self.state = state;
    if (_setjmp(self.place) == 0) _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume(int t) {
    threadIdx.x = t;
    if (_setjmp(scheduler) != 0) return;
    if (threads[t].started) _longjmp(threads[t].place, 1);
    threads[t].started = true;
    setcontext(&threads[t].start);
}

static void run_thread() {
    body(body_arguments);
    pause_as(DONE);
}

static unsigned drawn(unsigned n) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;  // Knuth's linear congruential generator
    return (chance >> 33) % n;
}

// 0 ... n - 1 in an order drawn at random.
static std::vector<unsigned> drawn_order(unsigned n) {
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; ++i) {
        const unsigned other = drawn(i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    return order;
}

static bool all(int first, int n, State state) {
    for (int t = first; t < first + n; ++t)
        if (threads[t].state != state) return false;
    return true;
}

static bool release(int first, int n, State state) {
    if (!all(first, n, state)) return false;
    for (int t = first; t < first + n; ++t) threads[t].state = READY;
    return true;
}

static void run_block() {
    for (int t = 0; t < THREADS; ++t) {
        Thread& thread = threads[t];
        thread.stack.resize(1 << 15);
        thread.state = READY;
        thread.started = false;
        thread.shuffles = 0;
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = thread.stack.data();
        thread.start.uc_stack.ss_size = thread.stack.size();
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, run_thread, 0);
    }
    while (failure.empty() && !all(0, THREADS, DONE)) {
        bool progress = false;
        for (unsigned t : drawn_order(THREADS)) {
            if (threads[t].state != READY) continue;
            resume(t);
            progress = true;
        }
        for (int w = 0; w < THREADS; w += 32) progress |= release(w, 32, AT_SHUFFLE);
        progress |= release(0, THREADS, AT_BARRIER);
        if (!progress) failure = "threads wait for others that have returned or wait elsewhere";
    }
}

// --- what kernels call ---

static void __syncthreads() { pause_as(AT_BARRIER); }

template <class T>
static T shuffled(unsigned lanes, T value, unsigned source) {
    if (lanes != 0xffffffffu) failure = "a shuffle of some lanes only";
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Two buffers in turn: who is at the next shuffle but one knows that all have read what this one left.
    uint64_t* values = exchanged[warp][threads[threadIdx.x].shuffles++ % 2];
    values[lane] = 0;
    memcpy(&values[lane], &value, sizeof value);
    pause_as(AT_SHUFFLE);
    if (source < 32) memcpy(&value, &values[source], sizeof value);
    return value;
}

template <class T>
static T __shfl_xor_sync(unsigned lanes, T value, unsigned mask) {
    return shuffled(lanes, value, threadIdx.x % 32 ^ mask);
}

template <class T>
static T __shfl_down_sync(unsigned lanes, T value, unsigned delta) {
    return shuffled(lanes, value, threadIdx.x % 32 + delta);
}

template <class T>
static T atomicAdd(T* address, T value) {
    if (drawn(2)) pause_as(READY);  // others go first, or not
    const T before = *address;
    *address = before + value;
    return before;
}

template <class T>
static T atomicMax(T* address, T value) {
    if (drawn(2)) pause_as(READY);  // others go first, or not
    const T before = *address;
    *address = before < value ? value : before;
    return before;
}

template <class To, class From>
static To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
static unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
static double __dadd_rn(double a, double b) { return a + b; }
static double __dmul_rn(double a, double b) { return a * b; }
static double widened(float value) { return value; }
static float rounded(double value) { return (float)value; }

static float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? ldexpf(1024 + fraction, exponent - 25)
                                      : ldexpf(fraction, -24);
    return bits >> 15 ? -size : size;
}

// --- launching, as cuLaunchKernel does: a pointer to each argument ---

template <auto KERNEL>
struct Kernel;

template <class... A, void (*KERNEL)(A...)>
struct Kernel<KERNEL> {
    static constexpr int count = sizeof...(A);
    static_assert(((sizeof(A) == 8) && ...), "CuPy passes 8 bytes for a number");

    static void call(void** arguments) { call(arguments, std::index_sequence_for<A...>()); }

    template <size_t... I>
    static void call(void** arguments, std::index_sequence<I...>) {
        KERNEL(*static_cast<A*>(arguments[I])...);
    }

    // 'p' for a pointer, 'i' for an integer, 'd' for a floating-point number, one each.
    static std::string kinds() { return {(std::is_pointer_v<A> ? 'p' : std::is_integral_v<A> ? 'i' : 'd')...}; }

    static const char* launch(int64_t blocks, unsigned seed, const char* given, void** arguments) {
        failure.clear();
        if (kinds() != given) failure = "arguments are " + std::string(given) + ", the kernel takes " + kinds();
        body = call;
        body_arguments = arguments;
        chance = seed;
        for (unsigned b : drawn_order(blocks)) {
            if (!failure.empty()) break;
            blockIdx.x = b;
            run_block();
        }
        return failure.c_str();
    }
};

#define LAUNCHER(name)                                                                                            \
    extern "C" const char* launch_##name(int64_t blocks, unsigned seed, const char* given, void** arguments) {    \
        return Kernel<name>::launch(blocks, seed, given, arguments);                                              \
    }
