// What every kernel of tamis needs. Prepended to each source; includes nothing, because NVRTC has
// no headers where no CUDA toolkit is installed. The inline PTX has a plain twin for compilers that
// are not NVIDIA's, so that the very same source runs in the tests on a CPU.

using int64 = long long;
using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;

struct half16 { uint16 bits; };
struct bfloat16 { uint16 bits; };

#define WARP 32
#define ALL_LANES 0xffffffffu
#define INF __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

__device__ inline float to_float(float x) { return x; }

__device__ inline float to_float(bfloat16 x) { return __uint_as_float(uint32(x.bits) << 16); }

__device__ inline float to_float(half16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    // The bias of the exponent differs by 112; the product corrects it, for subnormal numbers too.
    const uint32 magnitude = x.bits & 0x7fffu;
    const uint32 special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
    const float scaled = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;  // 2^112
    return __uint_as_float(__float_as_uint(scaled) | special | uint32(x.bits & 0x8000u) << 16);
#endif
}

// Labels and ids come as int64 or int32.
__device__ inline int64 integer_at(const void* values, int bytes, int64 i) {
    return bytes == 8 ? static_cast<const int64*>(values)[i] : static_cast<const int*>(values)[i];
}

// Reductions over groups of LANES neighbouring lanes; every lane of the warp takes part.
template <int LANES>
__device__ inline float group_max(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

template <int LANES>
__device__ inline float group_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

template <int LANES>
__device__ inline int group_min(int x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        x = min(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}
