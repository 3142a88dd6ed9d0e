// CUDA on a CPU, for tests: the kernels' own sources compiled by g++ and run thread by thread.
//
// The threads of a block are fibers (ucontext) of one thread of the machine; blocks run one after
// the other. A fiber runs until it meets a barrier or a warp operation and goes on when every
// thread that has to has met it. What a missing barrier would leave to chance on a GPU is decided
// here by the order in which fibers run: forwards, backwards, or shuffled. Shared memory is filled
// with 0xff before every block. A thread that returns while others wait, or lanes that meet at
// different operations, end the launch with a message. It shows no speed and no weak memory order.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};

namespace shim {

constexpr int kLanes = 32;
constexpr size_t kStack = 256 * 1024;

enum class State { kReady, kAtBarrier, kDone };

// One exchange of values among the lanes of a warp.
struct Warp {
    uint64_t given[kLanes], taken[kLanes];
    unsigned arrived = 0, mask = 0, rounds = 0;
    const char* operation = nullptr;
};

struct Fiber {
    ucontext_t context;
    jmp_buf place;  // where it goes on
    bool running = false;
    char* stack = nullptr;
    State state = State::kReady;
    dim3 thread;
    unsigned linear = 0;
};

struct Launch {
    dim3 grid, block, block_index;
    std::vector<Fiber> fibers;
    std::vector<std::unique_ptr<char[]>> stacks;  // kept from launch to launch
    std::vector<Warp> warps;
    Fiber* current = nullptr;
    ucontext_t scheduler;
    jmp_buf scheduler_place;
    std::string error;
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    bool progressed = false;
};

inline Launch launch;

// swapcontext asks the kernel for the signal mask each time; jumps are many times faster.
// AddressSanitizer takes jumps for the end of a stack, so it gets contexts.
#ifdef __SANITIZE_ADDRESS__
inline void yield() { swapcontext(&launch.current->context, &launch.scheduler); }
inline void resume(Fiber& fiber) { swapcontext(&launch.scheduler, &fiber.context); }
#else
inline void yield() {
    if (!_setjmp(launch.current->place)) _longjmp(launch.scheduler_place, 1);
}
inline void resume(Fiber& fiber) {
    if (_setjmp(launch.scheduler_place)) return;
    if (fiber.running) _longjmp(fiber.place, 1);
    fiber.running = true;
    setcontext(&fiber.context);
}
#endif

[[noreturn]] inline void fail(const std::string& message) {
    if (launch.error.empty())
        launch.error = "block " + std::to_string(launch.block_index.x) + ", thread " +
                       std::to_string(launch.current->linear) + ": " + message;
    for (;;) yield();  // never resumed: the scheduler stops at an error
}

inline void barrier() {
    launch.current->state = State::kAtBarrier;
    launch.progressed = true;
    yield();
}

// Gives `value`, waits until all lanes of `mask` have given theirs to the same operation, and
// returns them all.
inline const uint64_t* exchange(const char* operation, unsigned mask, uint64_t value) {
    const unsigned lane = launch.current->linear % kLanes;
    Warp& warp = launch.warps[launch.current->linear / kLanes];
    if (!(mask >> lane & 1)) fail(std::string(operation) + ": the lane is not in its own mask");
    if (warp.arrived == 0) {
        warp.mask = mask;
        warp.operation = operation;
    } else if (warp.mask != mask || std::strcmp(warp.operation, operation)) {
        fail(std::string(operation) + ": other lanes of the warp are at " + warp.operation);
    }
    warp.given[lane] = value;
    warp.arrived |= 1u << lane;
    launch.progressed = true;
    const unsigned round = warp.rounds;
    if (warp.arrived == mask) {
        std::memcpy(warp.taken, warp.given, sizeof warp.taken);
        warp.arrived = 0;
        ++warp.rounds;
    } else {
        while (warp.rounds == round) yield();
    }
    return warp.taken;
}

template <typename T>
uint64_t pack(T value) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
T unpack(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void fiber_main() {
    launch.kernel(launch.arguments);
    launch.current->state = State::kDone;
    launch.progressed = true;
    for (;;) yield();
}

inline void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    fiber.state = State::kReady;
    fiber.running = false;
}

// Where g++ puts the shared variables of all kernels (see __shared__ below).
extern "C" char __start_tamis_shared[] __attribute__((weak));
extern "C" char __stop_tamis_shared[] __attribute__((weak));

inline void run_block(const std::vector<unsigned>& order) {
    if (__start_tamis_shared)
        std::memset(__start_tamis_shared, 0xff, __stop_tamis_shared - __start_tamis_shared);
    for (Fiber& fiber : launch.fibers) start(fiber);
    for (Warp& warp : launch.warps) warp = Warp{};
    for (;;) {
        launch.progressed = false;
        for (unsigned i : order) {
            Fiber& fiber = launch.fibers[i];
            if (fiber.state != State::kReady) continue;
            launch.current = &fiber;
            resume(fiber);
            if (!launch.error.empty()) return;
        }
        size_t done = 0, waiting = 0;
        for (const Fiber& fiber : launch.fibers) {
            done += fiber.state == State::kDone;
            waiting += fiber.state == State::kAtBarrier;
        }
        if (done == launch.fibers.size()) return;
        if (waiting == launch.fibers.size()) {
            for (Fiber& fiber : launch.fibers) fiber.state = State::kReady;
        } else if (!launch.progressed || (done && done + waiting == launch.fibers.size())) {
            launch.error = "block " + std::to_string(launch.block_index.x) + ": " +
                           std::to_string(waiting) + " threads wait at __syncthreads, " +
                           std::to_string(done) + " have returned, " +
                           std::to_string(launch.fibers.size() - done - waiting) +
                           " wait for lanes of their warp";
            return;
        }
    }
}

// Runs a launch; gives the error's text, empty where there was none. `order` 0: threads and blocks
// forwards, 1: backwards, more: shuffled with that seed.
inline const char* run(void (*kernel)(void**), dim3 grid, dim3 block, void** arguments, int order) {
    launch.grid = grid, launch.block = block;
    launch.kernel = kernel, launch.arguments = arguments;
    launch.error.clear();
    const unsigned n_threads = block.x * block.y * block.z;
    launch.fibers = std::vector<Fiber>(n_threads);
    launch.warps = std::vector<Warp>((n_threads + kLanes - 1) / kLanes);
    std::vector<unsigned> threads(n_threads), blocks(grid.x * grid.y * grid.z);
    for (unsigned i = 0; i < n_threads; ++i) threads[i] = i;
    for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::mt19937 random(order);
    for (auto* list : {&threads, &blocks}) {
        if (order == 1) std::reverse(list->begin(), list->end());
        if (order > 1) std::shuffle(list->begin(), list->end(), random);
    }
    for (unsigned i = 0; i < n_threads; ++i) {
        Fiber& fiber = launch.fibers[i];
        if (launch.stacks.size() <= i) launch.stacks.emplace_back(new char[kStack]);
        fiber.stack = launch.stacks[i].get();
        fiber.linear = i;
        fiber.thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    }
    for (unsigned i : blocks) {
        launch.block_index = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
        run_block(threads);
        if (!launch.error.empty()) break;
    }
    // Threads that were left in the middle leave their frames to AddressSanitizer.
    if (!launch.error.empty()) launch.stacks.clear();
    return launch.error.c_str();
}

// Calls a kernel with the arguments that `values` points to, as cuLaunchKernel does.
template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(values[I])...);
}
template <typename... A>
void call(void (*kernel)(A...), void** values) {
    call(kernel, values, std::index_sequence_for<A...>{});
}

}  // namespace shim

// __device__ functions are static, so that their shared variables have no other linkage than those
// of kernels: g++ wants all of a section alike.
#define __device__ static
#define __global__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("tamis_shared")))
#define threadIdx (shim::launch.current->thread)
#define blockIdx (shim::launch.block_index)
#define blockDim (shim::launch.block)
#define gridDim (shim::launch.grid)

inline void __syncthreads() { shim::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange("__syncwarp", mask, 0); }
inline void __threadfence() {}

inline unsigned shim_lane() { return shim::launch.current->linear % shim::kLanes; }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const int source = (int(shim_lane()) & ~(width - 1)) | (from & (width - 1));
    return shim::unpack<T>(shim::exchange("__shfl_sync", mask, shim::pack(value))[source]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step, int width = 32) {
    const int lane = shim_lane(), source = lane ^ step;
    const uint64_t* all = shim::exchange("__shfl_xor_sync", mask, shim::pack(value));
    return (source & ~(width - 1)) == (lane & ~(width - 1)) ? shim::unpack<T>(all[source]) : value;
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int lane = shim_lane();
    const uint64_t* all = shim::exchange("__shfl_up_sync", mask, shim::pack(value));
    return (lane & (width - 1)) >= int(step) ? shim::unpack<T>(all[lane - step]) : value;
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int lane = shim_lane();
    const uint64_t* all = shim::exchange("__shfl_down_sync", mask, shim::pack(value));
    return (lane & (width - 1)) + int(step) < width ? shim::unpack<T>(all[lane + step]) : value;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const uint64_t* all = shim::exchange("__ballot_sync", mask, predicate != 0);
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= unsigned(all[lane]) << lane;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    const uint64_t own = shim::pack(value);
    const uint64_t* all = shim::exchange("__match_any_sync", mask, own);
    unsigned same = 0;
    for (int lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1) && all[lane] == own) same |= 1u << lane;
    return same;
}

// One thread of the machine runs everything, so plain code is atomic. Each gives the old value.
template <typename T, typename V>
T atomicAdd(T* at, V value) {
    return std::exchange(*at, T(*at + T(value)));
}
template <typename T, typename V>
T atomicMax(T* at, V value) {
    return std::exchange(*at, std::max(*at, T(value)));
}
template <typename T, typename V>
T atomicMin(T* at, V value) {
    return std::exchange(*at, std::min(*at, T(value)));
}
template <typename T, typename V>
T atomicOr(T* at, V value) {
    return std::exchange(*at, T(*at | T(value)));
}
template <typename T, typename V>
T atomicExch(T* at, V value) {
    return std::exchange(*at, T(value));
}
template <typename T, typename V>
T atomicCAS(T* at, V expected, V value) {
    return std::exchange(*at, *at == T(expected) ? T(value) : *at);
}

inline float __expf(float x) { return std::exp(x); }
inline float __int_as_float(int x) { return shim::unpack<float>(shim::pack(x)); }
inline int __float_as_int(float x) { return shim::unpack<int>(shim::pack(x)); }
inline float __uint_as_float(unsigned x) { return shim::unpack<float>(shim::pack(x)); }
inline unsigned __float_as_uint(float x) { return shim::unpack<unsigned>(shim::pack(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <typename T>
T __ldg(const T* at) {
    return *at;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
