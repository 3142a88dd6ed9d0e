// Sums of the rows of each label, the same bits in every run: no floating-point number is added by
// an atomic operation.
//
// A stable counting sort puts row numbers in the order of their labels: counts of each tile of
// rows, a scan over tiles, a scan over labels, and a scatter by one warp a tile, which goes through
// its rows in order. The sorted order is cut into pieces of 512 rows, whatever the labels, so that
// one label with all rows keeps the device as busy as many. A block sums a piece and writes what
// each label of it adds up to in slot piece + label: from one sum to the next, piece or label grows,
// so no two share a slot. A last kernel adds up the slots of each label in order.
//
// Sums are in float64. Labels out of range are passed over.

constexpr int BLOCK_THREADS = 256;
constexpr int SCAN_WARPS = 16;
constexpr int START_THREADS = 1024;
constexpr int PIECE = 512;
constexpr int AT_ONCE = 8;  // rows whose loads are under way together

struct Labels {
    const void* values;
    int bytes;
    int64 n_rows;
    int n_labels;
};

__device__ inline int label_at(const Labels& labels, int64 row) {
    if (row >= labels.n_rows) return -1;
    const int64 label = integer_at(labels.values, labels.bytes, row);
    return label >= 0 && label < labels.n_labels ? int(label) : -1;
}

// counts[tile][label], one block a tile. Integers: the order of the additions does not matter.
__device__ inline void count_labels(const Labels& labels, int tile_rows, uint64* counts) {
    uint64* own = counts + int64(blockIdx.x) * labels.n_labels;
    for (int j = threadIdx.x; j < labels.n_labels; j += BLOCK_THREADS) own[j] = 0;
    __syncthreads();
    const int64 start = int64(blockIdx.x) * tile_rows;
    for (int i = threadIdx.x; i < tile_rows; i += BLOCK_THREADS) {
        const int label = label_at(labels, start + i);
        if (label >= 0) atomicAdd(own + label, uint64(1));
    }
}

// counts[tile][label] becomes the number of rows of that label in tiles before; sizes[label] is
// that of all. A block takes 32 labels, each of its warps a run of tiles.
__device__ inline void scan_tiles(uint64* counts, int n_labels, int n_tiles, int64* sizes) {
    __shared__ uint64 totals[SCAN_WARPS][WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int label = blockIdx.x * WARP + lane;
    const bool real = label < n_labels;
    const int share = (n_tiles + SCAN_WARPS - 1) / SCAN_WARPS;
    const int first = min(warp * share, n_tiles), last = min(first + share, n_tiles);
    uint64 total = 0;
#pragma unroll 8
    for (int tile = first; tile < last; ++tile)
        if (real) total += counts[int64(tile) * n_labels + label];
    totals[warp][lane] = total;
    __syncthreads();
    uint64 before = 0, all = 0;
    for (int i = 0; i < SCAN_WARPS; ++i) {
        if (i == warp) before = all;
        all += totals[i][lane];
    }
    if (!real) return;
    if (warp == 0) sizes[label] = int64(all);
#pragma unroll 8
    for (int tile = first; tile < last; ++tile) {
        uint64* at = counts + int64(tile) * n_labels + label;
        const uint64 count = *at;
        *at = before;
        before += count;
    }
}

__device__ inline int64 warp_scan(int64 x, int lane) {
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const int64 other = __shfl_up_sync(ALL_LANES, x, step);
        if (lane >= step) x += other;
    }
    return x;
}

// starts[label]: where its rows begin in the sorted order; starts[n_labels]: how many there are. In
// one block; sizes may be starts + 1.
__device__ inline void scan_labels(const int64* sizes, int n_labels, int64* starts) {
    __shared__ int64 of_warp[START_THREADS / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int64 before = 0;
    for (int base = 0; base < n_labels; base += START_THREADS) {
        const int label = base + threadIdx.x;
        const int64 sum = warp_scan(label < n_labels ? sizes[label] : 0, lane);
        if (lane == WARP - 1) of_warp[warp] = sum;
        __syncthreads();
        const int64 of_warps = warp_scan(of_warp[lane], lane);
        const int64 others = __shfl_sync(ALL_LANES, of_warps, max(warp - 1, 0));
        if (label < n_labels) starts[label + 1] = before + (warp > 0 ? others : 0) + sum;
        before += __shfl_sync(ALL_LANES, of_warps, WARP - 1);
        __syncthreads();
    }
    if (threadIdx.x == 0) starts[0] = 0;
}

// order[…]: row numbers by label, then by number. One warp a tile; what stands before a row with
// the same label is counted by tile, by step of 32 rows, and by lane.
__device__ inline void scatter_rows(const Labels& labels, int tile_rows, const int64* starts,
                                    uint64* counts, int64* order) {
    const int64 tile = (int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    const int64 first = tile * tile_rows;
    uint64* own = counts + tile * labels.n_labels;
    for (int64 base = first; base < min(first + tile_rows, labels.n_rows); base += WARP) {
        const int64 row = base + lane;
        const int label = label_at(labels, row);
        const uint32 same = __match_any_sync(ALL_LANES, label);
        const int rank = __popc(same & ((1u << lane) - 1));
        const uint64 before = label >= 0 ? own[label] : 0;
        __syncwarp();  // all have read before the first writes
        if (label >= 0) {
            order[starts[label] + int64(before) + rank] = row;
            if (rank == 0) own[label] = before + __popc(same);
        }
        __syncwarp();
    }
}

// The label at a place of the sorted order.
__device__ inline int label_of(const int64* starts, int n_labels, int64 place) {
    int low = 0, high = n_labels - 1;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (starts[middle + 1] > place) high = middle; else low = middle + 1;
    }
    return low;
}

template <typename T>
struct Matrix {
    const T* values;
    int64 row_stride;  // in elements
    const float* weights;  // or null
    int n_columns;
};

// One block sums a piece of the sorted order, one thread a column; the last column is the weights'.
template <typename T>
__device__ inline void sum_piece(const Matrix<T>& in, const int64* order, const int64* starts,
                                 int n_labels, double* partials) {
    __shared__ int64 rows[PIECE];
    __shared__ double weights[PIECE];
    const int64 piece = blockIdx.x, first = piece * PIECE;
    const int n_rows = int(max(min(starts[n_labels] - first, int64(PIECE)), int64(0)));
    for (int i = threadIdx.x; i < n_rows; i += blockDim.x) {
        rows[i] = order[first + i];
        weights[i] = in.weights ? in.weights[rows[i]] : 1.0;
    }
    __syncthreads();
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column > in.n_columns || n_rows == 0) return;
    int label = label_of(starts, n_labels, first);
    int last = int(min(starts[label + 1] - first, int64(n_rows)));  // where the label's rows end
    double total = 0.0;
    for (int base = 0; base < n_rows; base += AT_ONCE) {
        float values[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            values[i] = base + i < n_rows && column < in.n_columns
                            ? to_float(in.values[rows[base + i] * in.row_stride + column])
                            : 1.0f;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (base + i >= n_rows) continue;
            if (base + i == last) {  // the same for the whole block
                partials[(piece + label) * (in.n_columns + 1) + column] = total;
                total = 0.0;
                ++label;
                if (starts[label + 1] <= first + last)
                    label = label_of(starts, n_labels, first + last);
                last = int(min(starts[label + 1] - first, int64(n_rows)));
            }
            total += weights[base + i] * values[i];  // exact before it is added
        }
    }
    partials[(piece + label) * (in.n_columns + 1) + column] = total;
}

// sums[label][column] and totals[label]: one thread adds up the label's pieces in order.
__device__ inline void add_pieces(const double* partials, const int64* starts, int n_columns,
                                  double* sums, double* totals) {
    const int64 label = blockIdx.x;
    const int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column > n_columns) return;
    const int64 start = starts[label], end = starts[label + 1];
    double total = 0.0;
    if (start < end) {
        const int64 last = (end - 1) / PIECE;
#pragma unroll 8
        for (int64 piece = start / PIECE; piece <= last; ++piece)
            total += partials[(piece + label) * (n_columns + 1) + column];
    }
    if (column < n_columns) sums[label * n_columns + column] = total;
    else totals[label] = total;
}

// ---- kernels

#define LABEL_ARGUMENTS const void *values, int bytes, int64 n_rows, int n_labels
#define LABELS Labels{values, bytes, n_rows, n_labels}
#define KERNEL extern "C" __global__ void __launch_bounds__

KERNEL(BLOCK_THREADS)
kmeans_count(LABEL_ARGUMENTS, int tile_rows, uint64* counts) {
    count_labels(LABELS, tile_rows, counts);
}

KERNEL(SCAN_WARPS * WARP)
kmeans_scan_tiles(uint64* counts, int n_labels, int n_tiles, int64* starts) {
    scan_tiles(counts, n_labels, n_tiles, starts + 1);
}

KERNEL(START_THREADS) kmeans_scan_labels(int n_labels, int64* starts) {
    scan_labels(starts + 1, n_labels, starts);
}

KERNEL(BLOCK_THREADS)
kmeans_scatter(LABEL_ARGUMENTS, int tile_rows, const int64* starts, uint64* counts, int64* order) {
    scatter_rows(LABELS, tile_rows, starts, counts, order);
}

#define SUM(NAME, T)                                                                           \
    KERNEL(BLOCK_THREADS)                                                                      \
    kmeans_sum_##NAME(const T* values, int64 row_stride, int n_columns, const float* weights,  \
                      const int64* order, const int64* starts, int n_labels,                   \
                      double* partials) {                                                      \
        sum_piece(Matrix<T>{values, row_stride, weights, n_columns}, order, starts, n_labels,  \
                  partials);                                                                   \
    }

SUM(float32, float)
SUM(float16, half16)
SUM(bfloat16, bfloat16)

KERNEL(BLOCK_THREADS)
kmeans_add(const double* partials, const int64* starts, int n_columns, double* sums,
           double* totals) {
    add_pieces(partials, starts, n_columns, sums, totals);
}

// ‖x‖ in float64, a warp a row.
template <typename T>
__device__ inline void norm_of_row(const T* x, int64 row_stride, int64 n_rows, int n_columns,
                                   double* norms) {
    const int lane = threadIdx.x % WARP;
    const int64 row = (int64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (row >= n_rows) return;  // a whole warp
    double total = 0.0;
#pragma unroll 4
    for (int j = lane; j < n_columns; j += WARP) {
        const double value = to_float(x[row * row_stride + j]);
        total += value * value;
    }
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        total += __shfl_xor_sync(ALL_LANES, total, step);
    if (lane == 0) norms[row] = sqrt(total);
}

#define NORMS(NAME, T)                                                                       \
    KERNEL(BLOCK_THREADS)                                                                    \
    kmeans_norms_##NAME(const T* x, int64 row_stride, int64 n_rows, int n_columns,           \
                        double* norms) {                                                     \
        norm_of_row(x, row_stride, n_rows, n_columns, norms);                                \
    }
NORMS(float32, float)
NORMS(float16, half16)
NORMS(bfloat16, bfloat16)
