// Loss, EL2N, margin, entropy, p(label) and correctness in one read of the logits; for the kernels
// that score rows. An Out says what becomes of a row's scores: finish(sums, row, out).
//
// Sums run over the classes other than the label and leave out their largest, whose exponential is
// 1: every score is then a sum of positive terms and keeps its digits on confident rows (formulas
// in reference/row_scores.py). Up to 1024 classes a row lies in the registers of a group of lanes; a longer one
// is read once by a block that rescales its sums when it meets a larger logit.

constexpr int BLOCK_THREADS = 256;
constexpr int FOLD_AFTER = 8;  // turns of a long row

struct Scores {
    float *loss, *el2n, *margin, *entropy, *p_label;
    uint8* correct;
};

template <typename T>
struct Logits {
    const T* values;
    int64 row_stride;  // in elements
    const void* labels;
    int label_bytes;
    int64 n_rows;
    int n_classes;
};

// What the other classes of one row add up to; e = exp(z − peak).
struct Others {
    float own;       // the label's logit; NaN where the label is out of range
    float peak;      // the largest other logit
    float total;     // Σe of those below the peak
    float squares;   // Σe²
    float weighted;  // Σe·(peak − z)
    float n_top;     // how many equal the peak
    int first;       // the first class that equals the peak; only looked for when own == peak
    int label;
};

struct RowScores {
    float loss, el2n, margin, entropy, p_label;
    bool correct;
};

__device__ inline RowScores scores_of(const Others& row) {
    const float d = row.own - row.peak;
    const float taken = d - row.own;
    const float lost = (row.own - (d - taken)) - (row.peak + taken);  // own − peak = d + lost
    const bool broken = isnan(row.total) || isnan(d) || row.own == INF;
    const bool right = d >= 0.0f;
    const float correction = fabsf(lost) <= 1.0f ? (right ? lost : -lost) : 0.0f;
    const float scale = expf(-fabsf(d)) * (1.0f - correction);
    const float gap = fminf(fabsf(d), 200.0f);  // where scale is 0; infinity times it is not
    const float n_top = fmaxf(row.n_top, 1.0f);
    const float others = row.total + n_top;
    const float rest = right ? scale * others : row.total + (n_top - 1.0f) + scale;
    const float z = 1.0f + rest;
    const float log_z = log1pf(rest);
    const float of_others = right ? scale : 1.0f;
    const float spread = right ? scale * (gap * others + row.weighted) : row.weighted + scale * gap;
    const bool first = row.own > row.peak || (row.own == row.peak && row.label < row.first);
    return {broken ? NOT_A_NUMBER : right ? log_z : log_z - d,
            broken ? NOT_A_NUMBER : of_others * sqrtf(row.squares + n_top + others * others) / z,
            broken ? NOT_A_NUMBER : d,
            broken ? NOT_A_NUMBER : log_z + spread / z,
            broken ? NOT_A_NUMBER : (right ? 1.0f : scale) / z,
            first && !broken};
}

__device__ inline void write(const RowScores& scores, int64 at, const Scores& out) {
    out.loss[at] = scores.loss;
    out.el2n[at] = scores.el2n;
    out.margin[at] = scores.margin;
    out.entropy[at] = scores.entropy;
    out.p_label[at] = scores.p_label;
    out.correct[at] = scores.correct;
}

__device__ inline void finish(const Others& row, int64 at, const Scores& out) {
    write(scores_of(row), at, out);
}

// The class that element i of a lane holds: VECTOR neighbouring ones at a time.
template <int LANES, int VECTOR>
__device__ inline int class_at(int i, int lane) {
    return (i / VECTOR * LANES + lane) * VECTOR + i % VECTOR;
}

template <typename T, int LANES, int ITEMS, int VECTOR>
__device__ inline void load_row(const T* row, int n_classes, int lane, float (&z)[ITEMS]) {
#pragma unroll
    for (int i = 0; i < ITEMS; i += VECTOR) {
        const int start = class_at<LANES, VECTOR>(i, lane);
        if constexpr (VECTOR == 1) {
            z[i] = start < n_classes ? to_float(row[start]) : -INF;
        } else {
            // n_classes is a multiple of VECTOR here, and rows are aligned to 16 bytes.
            union { uint4 words; T values[VECTOR]; } packed;
            if (start < n_classes) packed.words = *reinterpret_cast<const uint4*>(row + start);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                z[i + k] = start < n_classes ? to_float(packed.values[k]) : -INF;
        }
    }
}

// Moves sums to a larger peak; what stood at the old one joins the sums below.
__device__ inline void raise_peak(Others& sums, float peak) {
    if (peak == sums.peak) return;
    if (sums.n_top != 0.0f || sums.total != 0.0f) {
        const float gap = peak - sums.peak;
        const float s = __expf(-gap);
        const float all = sums.total + sums.n_top;
        sums.weighted = s * (sums.weighted + fminf(gap, 200.0f) * all);
        sums.squares = s * s * (sums.squares + sums.n_top);
        sums.total = s * all;
        sums.n_top = 0.0f;
    }
    sums.peak = peak;
}

template <int ITEMS>
__device__ inline void add(Others& sums, const float (&z)[ITEMS]) {
    const float shift = sums.peak == -INF ? 0.0f : sums.peak;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const float g = z[i] - shift;
        const bool top = g == 0.0f;
        const float e = top ? 0.0f : __expf(g);
        sums.n_top += top ? 1.0f : 0.0f;
        sums.total += e;
        sums.squares += e * e;
        sums.weighted -= e * fmaxf(g, -200.0f);
    }
}
template <int LANES>
__device__ inline void sum_over_group(Others& sums) {
    sums.total = group_sum<LANES>(sums.total);
    sums.squares = group_sum<LANES>(sums.squares);
    sums.weighted = group_sum<LANES>(sums.weighted);
    sums.n_top = group_sum<LANES>(sums.n_top);
}

template <typename T>
__device__ inline Others no_others(const Logits<T>& in, int64 row) {
    const int64 label = integer_at(in.labels, in.label_bytes, row);
    const bool known = label >= 0 && label < in.n_classes;
    const float own = known ? to_float(in.values[row * in.row_stride + label]) : NOT_A_NUMBER;
    return {own, -INF, 0.0f, 0.0f, 0.0f, 0.0f, in.n_classes, known ? int(label) : -1};
}

template <typename T, int LANES, int ITEMS, int VECTOR>
__device__ inline Others sum_row(const Logits<T>& in, int64 row, int lane) {
    const T* logits = in.values + row * in.row_stride;
    Others sums = no_others(in, row);
    float z[ITEMS];
    load_row<T, LANES, ITEMS, VECTOR>(logits, in.n_classes, lane, z);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        if (class_at<LANES, VECTOR>(i, lane) == sums.label) z[i] = -INF;
        sums.peak = fmaxf(sums.peak, z[i]);  // passes over NaN, which the sums below do not
    }
    sums.peak = group_max<LANES>(sums.peak);
    add(sums, z);
    sum_over_group<LANES>(sums);
    if (__any_sync(ALL_LANES, sums.own == sums.peak)) {  // rare: who comes first?
#pragma unroll
        for (int i = ITEMS - 1; i >= 0; --i)
            if (z[i] == sums.peak) sums.first = class_at<LANES, VECTOR>(i, lane);
        sums.first = group_min<LANES>(sums.first);
    }
    return sums;
}

// A group of LANES lanes takes ROWS rows, one after the other; then each lane finishes one of them.
template <typename T, int LANES, int ITEMS, int VECTOR, typename Out>
__device__ inline void score_in_registers(const Logits<T>& in, const Out& out) {
    constexpr int ROWS = LANES < 8 ? LANES : LANES == 8 ? 8 : 4;
    const int lane = threadIdx.x % LANES;
    const int64 group = (int64(blockIdx.x) * blockDim.x + threadIdx.x) / LANES;
    Others mine;
    for (int r = 0; r < ROWS; ++r) {
        const int64 row = group * ROWS + r;
        // Past the end the last row is summed again, because the shuffles need every lane.
        const Others sums =
            sum_row<T, LANES, ITEMS, VECTOR>(in, row < in.n_rows ? row : in.n_rows - 1, lane);
        if (lane == r) mine = sums;
    }
    const int64 row = group * ROWS + lane;
    if (lane < ROWS && row < in.n_rows) finish(mine, row, out);
}

// Moves the sums of some logits into those of more.
__device__ inline void fold(Others& all, Others& some) {
    const float peak = fmaxf(all.peak, some.peak);
    raise_peak(all, peak);
    raise_peak(some, peak);
    all.total += some.total, all.squares += some.squares;
    all.weighted += some.weighted, all.n_top += some.n_top;
    some.total = some.squares = some.weighted = some.n_top = 0.0f;
}

// One block a row, of any length. The largest logit so far is each thread's own until the end.
template <typename T, int VECTOR, typename Out>
__device__ inline void score_in_a_block(const Logits<T>& in, const Out& out) {
    constexpr int ITEMS = VECTOR == 1 ? 4 : VECTOR;
    __shared__ Others of_warp[BLOCK_THREADS / WARP];
    __shared__ int first;
    const int64 row = blockIdx.x;
    const T* logits = in.values + row * in.row_stride;
    const int lane = threadIdx.x % WARP;
    Others sums = no_others(in, row), all = sums;
    int n_added = 0;
    for (int start = 0; start < in.n_classes; start += BLOCK_THREADS * ITEMS) {
        float z[ITEMS];
        load_row<T, BLOCK_THREADS, ITEMS, VECTOR>(logits + start, in.n_classes - start,
                                                  threadIdx.x, z);
        float peak = sums.peak;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            if (start + class_at<BLOCK_THREADS, VECTOR>(i, threadIdx.x) == sums.label) z[i] = -INF;
            peak = fmaxf(peak, z[i]);
        }
        raise_peak(sums, peak);
        add(sums, z);
        // A float32 that hundreds of like terms are added to, one by one, drifts.
        if (++n_added % FOLD_AFTER == 0) fold(all, sums);
    }
    fold(all, sums);
    sums = all;
    raise_peak(sums, group_max<WARP>(sums.peak));
    sum_over_group<WARP>(sums);
    if (lane == 0) of_warp[threadIdx.x / WARP] = sums;
    if (threadIdx.x == 0) first = in.n_classes;
    __syncthreads();
    constexpr int N_WARPS = BLOCK_THREADS / WARP;
    sums = of_warp[lane % N_WARPS];
    raise_peak(sums, group_max<N_WARPS>(sums.peak));
    sum_over_group<N_WARPS>(sums);
    if (sums.own == sums.peak) {  // rare, and the same for the whole block
        for (int j = threadIdx.x; j < in.n_classes; j += BLOCK_THREADS)
            if (j != sums.label && to_float(logits[j]) == sums.peak) atomicMin(&first, j);
        __syncthreads();
        sums.first = first;
    }
    if (threadIdx.x == 0) finish(sums, row, out);
}

#define ARGUMENTS(T)                                                                            \
    const T *values, int64 row_stride, const void *labels, int label_bytes, int64 n_rows,       \
        int n_classes, float *loss, float *el2n, float *margin, float *entropy, float *p_label, \
        uint8 *correct
#define IN(T) Logits<T>{values, row_stride, labels, label_bytes, n_rows, n_classes}
#define SCORES Scores{loss, el2n, margin, entropy, p_label, correct}

// One kernel a shape; row_scores.py chooses. A source defines KERNEL(SHAPE), the kernel's name,
// ALL_ARGUMENTS(T), ARGUMENTS(T) and what else OUT needs, and OUT.
#define IN_REGISTERS(NAME, T, LANES, ITEMS, VECTOR)                                          \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)                              \
        KERNEL(NAME##_##LANES##x##ITEMS##_by##VECTOR)(ALL_ARGUMENTS(T)) {                    \
        score_in_registers<T, LANES, ITEMS, VECTOR>(IN(T), OUT);                             \
    }
#define IN_A_BLOCK(NAME, T, VECTOR)                                                          \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)                              \
        KERNEL(NAME##_block_by##VECTOR)(ALL_ARGUMENTS(T)) {                                  \
        score_in_a_block<T, VECTOR>(IN(T), OUT);                                             \
    }
#define EVERY_SHAPE(NAME, T, VECTOR)      \
    IN_REGISTERS(NAME, T, 1, 16, 1)       \
    IN_REGISTERS(NAME, T, 8, 4, 1)        \
    IN_REGISTERS(NAME, T, 8, 16, 1)       \
    IN_REGISTERS(NAME, T, 8, 16, VECTOR)  \
    IN_REGISTERS(NAME, T, 32, 8, 1)       \
    IN_REGISTERS(NAME, T, 32, 8, VECTOR)  \
    IN_REGISTERS(NAME, T, 32, 32, 1)      \
    IN_REGISTERS(NAME, T, 32, 32, VECTOR) \
    IN_A_BLOCK(NAME, T, 1)                \
    IN_A_BLOCK(NAME, T, VECTOR)
#define EVERY_KERNEL                   \
    EVERY_SHAPE(float32, float, 4)     \
    EVERY_SHAPE(float16, half16, 8)    \
    EVERY_SHAPE(bfloat16, bfloat16, 8)
