// EL2N · sqrt(‖h‖² + 1): a warp a row, squares summed in float64, which no float32's overflows.

constexpr int BLOCK_THREADS = 256;

__device__ inline double warp_sum(double x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

template <typename T, int VECTOR>
__device__ inline double sum_of_squares(const T* values, int n, int lane) {
    double total = 0.0;
#pragma unroll 4
    for (int start = lane * VECTOR; start < n; start += WARP * VECTOR) {
        if constexpr (VECTOR == 1) {
            const double value = to_float(values[start]);
            total += value * value;
        } else {
            // n is a multiple of VECTOR here, and rows are aligned to 16 bytes.
            union { uint4 words; T values[VECTOR]; } packed;
            packed.words = *reinterpret_cast<const uint4*>(values + start);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const double value = to_float(packed.values[k]);
                total += value * value;
            }
        }
    }
    return warp_sum(total);
}

template <typename T, int VECTOR>
__device__ inline void norm_of_row(const T* features, int64 row_stride, int64 n_rows, int width,
                                   double more, const float* el2n, float* norms) {
    const int lane = threadIdx.x % WARP;
    const int64 row = (int64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (row >= n_rows) return;  // a whole warp
    const double squares = sum_of_squares<T, VECTOR>(features + row * row_stride, width, lane);
    if (lane == 0) norms[row] = float(el2n[row] * sqrt(squares + more));
}

#define KERNEL(NAME, T, VECTOR)                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)                               \
        last_layer_grand_##NAME##_by##VECTOR(const T* features, int64 row_stride,             \
                                             int64 n_rows, int width, double more,            \
                                             const float* el2n, float* norms) {               \
        norm_of_row<T, VECTOR>(features, row_stride, n_rows, width, more, el2n, norms);       \
    }

KERNEL(float32, float, 1)
KERNEL(float32, float, 4)
KERNEL(float16, half16, 1)
KERNEL(float16, half16, 8)
KERNEL(bfloat16, bfloat16, 1)
KERNEL(bfloat16, bfloat16, 8)
