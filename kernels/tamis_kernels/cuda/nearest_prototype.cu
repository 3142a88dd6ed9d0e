// Nearest and second nearest prototype: a product of rounded numbers proposes, distances decide.
//
// With a the row and b_j the prototypes (cosine: divided by their norms), c the prototypes' mean, s
// a power of two, v = s(a − c) and w_j = s(b_j − c):
//
//     score_j = v·w_j − ‖w_j‖²/2 = (‖v‖² − ‖v − w_j‖²)/2
//
// is largest at the nearest prototype. Rows and prototypes are rounded to v̂ and ŵ_j, whose products
// a library computes; centring keeps them, and with them every error, as small as an offset of the
// data allows. Then, with P_j ≥ ‖w_j‖ and ‖ŵ_j‖,
//
//     |score_j − (v̂·ŵ_j − h_j)| ≤ A·P_j + 2^-19·h_j,    A = ‖v − v̂‖ + ‖v̂‖(ρ + γ) + σ
//
//     ‖v − v̂‖  measured; by Cauchy–Schwarz it enters as |(v − v̂)·w_j|;
//     ρ        the largest ‖w_j − ŵ_j‖/P_j, measured; enters as |v̂·(w_j − ŵ_j)|;
//     γ        of the float32 sums: (1.25·d + 24)·2^-23. An addition, even one that truncates as
//              those of tensor cores do, loses at most 2^-23 of the largest sum so far, which is at
//              most Σ|v̂ŵ_j| ≤ ‖v̂‖P_j; tensor cores truncate four or more products and the sum at a
//              time, hence 1.25; the 24 cover the roundings of this file;
//     σ        that 1/‖a‖ of the cosine metric was rounded: s·2^-21;
//     h_j      the half squared norm, in float32 (the last term covers its error).
//
// Every prototype whose score may be among the two largest is a candidate, and distances to all
// candidates are computed from the numbers as they were given: in float32 with float64 sums, which
// decides all but near ties, and near ties once more in float64. So the result does not depend on
// the rounding: a coarse one only makes more candidates.

constexpr int BLOCK_THREADS = 256;
constexpr int ITEMS = 8;               // of a lane
constexpr int TILE = WARP * ITEMS;     // columns that a warp takes at a time
constexpr int OWNED = 4;               // neighbouring prototypes that a lane looks at
constexpr int CENTRE_WARPS = 16;

constexpr float UP = 1.0f + 0x1p-19f;  // covers the rounding of a few float32 operations
constexpr float TINY = 0x1p-40f;       // covers what underflows in a norm; |b − c| goes up to 1
constexpr uint32 INF_BITS = 0x7f800000u;
constexpr int64 UNSETTLED = -1;

struct Prototype {
    float half_norm;  // h_j
    float norm;       // P_j
};

struct Row {
    double factor;   // of ‖x − αp‖² to the result: 1/(2‖x‖²); 1 for Euclidean
    float length;    // ‖x‖; 1 for Euclidean
    float slope;     // A; infinite where the products are of no use
    uint32 largest;  // bits of the largest |x|: infinite or NaN where the row is
    uint32 padding;
};

// The prototypes, made ready.
struct Table {
    const float* values;    // (k, d padded to a multiple of 8), as given
    const float* lengths;   // (k,) ‖b‖ before it was divided by it; 1 for Euclidean
    const float* centre;    // (d padded,)
    const uint32* spread;   // bits of the largest |b − c| of every 32 columns
    const uint32* widest;   // bits of ρ: infinite where products are of no use, NaN where a
                            // prototype is no vector
    int n_prototypes, n_columns;  // columns with padding
    int unit;                     // cosine
};

template <typename T>
struct Rows {
    const T* values;
    int64 row_stride;  // in elements
    int64 n_rows;
    int n_columns;
};

__device__ inline double warp_sum(double x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ inline uint32 warp_max(uint32 x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x = max(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// One warp a row; the last ones of the grid may have none.
__device__ inline int64 row_of_warp() {
    return (int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x) / WARP;
}

// As integers the bits of numbers without a sign order as the numbers do, with NaN above infinity.
__device__ inline uint32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// The column that item i of a lane holds: VECTOR neighbouring ones at a time.
template <int VECTOR>
__device__ inline int column_at(int start, int i, int lane) {
    return start + (i / VECTOR * WARP + lane) * VECTOR + i % VECTOR;
}

// Items of one tile; 0 past the last column. With VECTOR > 1 rows are aligned to 16 bytes, and
// n_columns is a multiple of VECTOR.
template <int VECTOR, typename T>
__device__ inline void load(const T* row, int start, int n_columns, int lane, float (&v)[ITEMS]) {
#pragma unroll
    for (int i = 0; i < ITEMS; i += VECTOR) {
        const int column = column_at<VECTOR>(start, i, lane);
        if constexpr (VECTOR == 1) {
            v[i] = column < n_columns ? to_float(row[column]) : 0.0f;
        } else {
            constexpr int N_WORDS = VECTOR * sizeof(T) / sizeof(uint4);
            union { uint4 words[N_WORDS]; T values[VECTOR]; } packed;
            if (column < n_columns) {
#pragma unroll
                for (int k = 0; k < N_WORDS; ++k)
                    packed.words[k] = reinterpret_cast<const uint4*>(row + column)[k];
            }
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                v[i + k] = column < n_columns ? to_float(packed.values[k]) : 0.0f;
        }
    }
}

// Four roundings, however long the row is: sums of tiles are in float64.
__device__ inline float sum_of_squares(const float (&t)[ITEMS]) {
    return (fmaf(t[1], t[1], t[0] * t[0]) + fmaf(t[3], t[3], t[2] * t[2])) +
           (fmaf(t[5], t[5], t[4] * t[4]) + fmaf(t[7], t[7], t[6] * t[6]));
}

template <int VECTOR, typename T>
__device__ inline double squared_norm(const T* row, int n_columns, int lane) {
    double total = 0.0;
    for (int start = 0; start < n_columns; start += TILE) {
        float t[ITEMS];
        load<VECTOR>(row, start, n_columns, lane, t);
        total += sum_of_squares(t);
    }
    return warp_sum(total);
}

// ---- prototypes → table

// One warp a prototype: a float32 copy with padding, and norms.
template <typename T>
__device__ inline void copy_prototypes(const Rows<T>& in, int padded_columns, int unit,
                                       float* table, float* lengths, uint32* largest,
                                       uint32* widest) {
    const int64 row = row_of_warp();
    const int lane = threadIdx.x % WARP;
    if (blockIdx.x == 0 && threadIdx.x == 0) *widest = 0;
    if (row >= in.n_rows) return;
    double total = 0.0;
    uint32 top = 0;
    for (int column = lane; column < padded_columns; column += WARP) {
        const float value =
            column < in.n_columns ? to_float(in.values[row * in.row_stride + column]) : 0.0f;
        table[row * padded_columns + column] = value;
        top = max(top, magnitude(value));
        total += double(value) * double(value);
    }
    total = warp_sum(total);
    top = warp_max(top);
    if (lane == 0) {
        lengths[row] = unit ? float(sqrt(total)) : 1.0f;
        largest[row] = top;
    }
}

// A block takes 32 columns, a warp every sixteenth prototype. Any centre is right, so its own
// rounding does not matter.
__device__ inline void find_centre(const Table& in, float* centre, uint32* spread) {
    __shared__ double sums[CENTRE_WARPS][WARP];
    __shared__ uint32 tops[CENTRE_WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int column = blockIdx.x * WARP + lane;
    const bool real = column < in.n_columns;
    double total = 0.0;
#pragma unroll 4
    for (int j = warp; j < in.n_prototypes; j += CENTRE_WARPS)
        if (real) total += in.values[int64(j) * in.n_columns + column] / in.lengths[j];
    sums[warp][lane] = total;
    __syncthreads();
    total = 0.0;
    for (int i = 0; i < CENTRE_WARPS; ++i) total += sums[i][lane];
    const float mean = float(total / in.n_prototypes);
    if (warp == 0 && real) centre[column] = mean;
    uint32 top = 0;
#pragma unroll 4
    for (int j = warp; j < in.n_prototypes; j += CENTRE_WARPS)
        if (real) {
            const float value = in.values[int64(j) * in.n_columns + column] / in.lengths[j];
            top = max(top, magnitude(value - mean));
        }
    top = warp_max(top);
    if (lane == 0) tops[warp] = top;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < CENTRE_WARPS; ++i) top = max(top, tops[i]);
        spread[blockIdx.x] = top;
    }
}

// s: the power of two that brings the largest |b − c| between one half and one, as far as it and
// its inverse are normal numbers.
__device__ inline float scale_of(const Table& in, int lane) {
    uint32 top = 0;
    for (int i = lane; i * WARP < in.n_columns; i += WARP) top = max(top, in.spread[i]);
    top = warp_max(top);
    const int exponent = top == 0 ? 127 : min(max(253 - int(top >> 23), 1), 253);
    return __uint_as_float(uint32(exponent) << 23);
}

// ---- vectors → rounded vectors

struct Rounded {
    float norm;       // ≥ ‖v‖
    float residual;   // ≥ ‖v − v̂‖
    float half_norm;  // ‖v‖²/2
    uint32 largest;   // bits of the largest |a|
};

__device__ inline float to_bfloat16(float x) {
    const uint32 bits = __float_as_uint(x);
    return __uint_as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

// v̂ to memory, in bfloat16 or whole.
template <int VECTOR>
__device__ inline void store(const float (&v)[ITEMS], bool whole, void* out, int64 at, int start,
                             int n_columns, int lane) {
#pragma unroll
    for (int i = 0; i < ITEMS; i += VECTOR) {
        const int column = column_at<VECTOR>(start, i, lane);
        if (column >= n_columns) continue;
        if (whole) {
            union { uint4 words[(VECTOR + 3) / 4]; float values[VECTOR]; } packed;
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) packed.values[k] = v[i + k];
            float* to = static_cast<float*>(out) + at + column;
            if constexpr (VECTOR == 1) *to = v[i];
#pragma unroll
            for (int k = 0; k < VECTOR / 4; ++k) reinterpret_cast<uint4*>(to)[k] = packed.words[k];
        } else {
            union { uint4 four; uint2 two; uint16 values[8]; } packed;
#pragma unroll
            for (int k = 0; k < VECTOR; ++k)
                packed.values[k] = uint16(__float_as_uint(v[i + k]) >> 16);
            uint16* to = static_cast<uint16*>(out) + at + column;
            if constexpr (VECTOR == 8) *reinterpret_cast<uint4*>(to) = packed.four;
            if constexpr (VECTOR == 4) *reinterpret_cast<uint2*>(to) = packed.two;
            if constexpr (VECTOR == 1) *to = packed.values[0];
        }
    }
}

// One warp rounds one vector a = values·factor to out[at …].
template <int VECTOR, typename T>
__device__ inline Rounded round_vector(const T* values, int n_columns, float factor,
                                       const Table& in, float scale, bool whole, void* out,
                                       int64 at, int lane) {
    double squares = 0.0, lost = 0.0;
    uint32 largest = 0;
    for (int start = 0; start < in.n_columns; start += TILE) {
        float v[ITEMS], c[ITEMS], e[ITEMS];
        load<VECTOR>(values, start, n_columns, lane, v);
        load<VECTOR>(in.centre, start, in.n_columns, lane, c);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            largest = max(largest, magnitude(v[i]));
            v[i] = fmaf(v[i], factor, -c[i]) * scale;
            e[i] = v[i];
        }
        squares += sum_of_squares(v);
        if (!whole) {
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                v[i] = to_bfloat16(v[i]);
                e[i] -= v[i];  // exact
            }
            lost += sum_of_squares(e);
        }
        store<VECTOR>(v, whole, out, at, start, in.n_columns, lane);
    }
    squares = warp_sum(squares);
    const float norm = sqrtf(float(squares)) * UP + TINY;
    // v itself was rounded once; of the cosine metric, the factor too.
    const float slack = norm * 0x1p-23f + (in.unit ? scale * 0x1p-21f : 0.0f);
    const float residual = (sqrtf(float(warp_sum(lost))) + slack) * UP;
    return {norm, residual, float(0.5 * squares), warp_max(largest)};
}

// 1/‖a‖ in float32, and squares of differences of a from its like, have all their digits.
__device__ inline bool in_range(float length) { return length > 1e-12f && length < 1e15f; }

// One warp a prototype; those of the padding are 0.
__device__ inline void round_prototypes(const Table& in, const uint32* largest, int padded_rows,
                                        bool whole, void* out, Prototype* prototypes,
                                        uint32* widest) {
    const int64 row = row_of_warp();
    const int lane = threadIdx.x % WARP;
    if (row >= padded_rows) return;
    const bool real = row < in.n_prototypes;
    const float length = real ? in.lengths[row] : 1.0f;
    const float scale = real ? scale_of(in, lane) : 0.0f;
    const Rounded rounded =
        round_vector<ITEMS>(in.values + (real ? row * in.n_columns : 0), in.n_columns,
                            1.0f / length, in, scale, whole, out, row * in.n_columns, lane);
    if (lane != 0) return;
    const float norm = (rounded.norm + rounded.residual) * UP;
    prototypes[row] = {rounded.half_norm, norm};
    if (!real) return;
    const bool vector = largest[row] < INF_BITS && !(in.unit && largest[row] == 0);
    const bool useful = norm < 1e30f && (!in.unit || in_range(length));
    const float ratio = !vector ? NOT_A_NUMBER : useful ? rounded.residual / norm * UP : INF;
    atomicMax(widest, __float_as_uint(ratio));
}

// One warp a row.
template <int VECTOR, typename T>
__device__ inline void round_rows(const Rows<T>& in, const Table& table, float gamma, bool whole,
                                  void* out, Row* rows) {
    const int64 row = row_of_warp();
    const int lane = threadIdx.x % WARP;
    if (row >= in.n_rows) return;
    const T* values = in.values + row * in.row_stride;
    const double square = table.unit ? squared_norm<VECTOR>(values, in.n_columns, lane) : 1.0;
    const float length = sqrtf(float(square));
    const float scale = scale_of(table, lane);
    const Rounded rounded =
        round_vector<VECTOR>(values, in.n_columns, 1.0f / length, table, scale, whole, out,
                             row * table.n_columns, lane);
    const float widest = __uint_as_float(*table.widest);
    const float sigma = table.unit ? scale * 0x1p-21f : 0.0f;
    const float sum = rounded.norm + rounded.residual;
    const float slope = (rounded.residual + sum * (widest + gamma) + sigma) * UP;
    const bool useful = slope < 1e30f && sum < 1e30f && (!table.unit || in_range(length));
    if (lane == 0)
        rows[row] = {table.unit ? 0.5 / square : 1.0, length, useful ? slope : INF,
                     rounded.largest, 0};
}

// ---- scores → candidates → the nearest two

struct Found {
    double first, second;
    int index;
    bool whole;  // no distance was beyond float32
};

__device__ inline void add(Found& found, double value, int j) {
    if (value < found.first || (value == found.first && j < found.index)) {
        found.second = found.first;
        found.first = value;
        found.index = j;
    } else {
        found.second = value < found.second ? value : found.second;
    }
    found.whole = found.whole && value < 1e37;
}

struct Outputs {
    int64* index;
    float *distance, *second;
};

// What a warp knows of its row.
template <typename T>
struct Query {
    const T* values;
    int n_columns;
    const float* scores;
    const Prototype* prototypes;
    float slope;
    float threshold;  // candidates reach it
    float length;     // ‖x‖; 1 for Euclidean
    double exact_length;  // only where distances are in float64
};

// Largest score that prototype j may have.
template <typename T>
__device__ inline float upper(const Query<T>& query, float product, const Prototype& j) {
    return fmaf(query.slope, j.norm, fmaf(-(1.0f - 0x1p-19f), j.half_norm, product));
}

__device__ inline float lower(float slope, float product, const Prototype& j) {
    return fmaf(-slope, j.norm, fmaf(-(1.0f + 0x1p-19f), j.half_norm, product));
}

// Squared distance to prototype j, relative error below 4e-7. For cosine it is ‖x − αp‖² with
// α = ‖x‖/‖p‖, that is 2‖x‖²(1 − cos). With α(1 + η) in its place it is
// ‖x‖²(2(1 + η)(1 − cos) + η²): the relative error of α, below 3e-7, is added to the result's, and
// its square is nothing beside a 1 − cos above 1e-6.
template <int VECTOR, typename T>
__device__ inline double distance32(const Query<T>& query, const Table& table, int j, int lane) {
    const float* prototype = table.values + int64(j) * table.n_columns;
    const float alpha = table.unit ? query.length / table.lengths[j] : 1.0f;
    double total = 0.0;
    for (int start = 0; start < query.n_columns; start += TILE) {
        float t[ITEMS], p[ITEMS];
        load<VECTOR>(query.values, start, query.n_columns, lane, t);
        load<VECTOR>(prototype, start, table.n_columns, lane, p);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) t[i] = fmaf(-alpha, p[i], t[i]);
        total += sum_of_squares(t);
    }
    return warp_sum(total);
}

// ‖v‖ in float64.
template <typename T>
__device__ inline double exact_length(const T* v, int n_columns, int lane) {
    double total = 0.0;
    for (int i = lane; i < n_columns; i += WARP) {
        const double value = to_float(v[i]);
        total += value * value;
    }
    return sqrt(warp_sum(total));
}

// a/b with inverse = 1/b, rounded as a division is (Markstein 1990), so that equal directions more
// often have equal coordinates than after a product with the inverse.
__device__ inline double quotient(double a, double b, double inverse) {
    const double near = a * inverse;
    return fma(fma(-near, b, a), inverse, near);
}

// Distance to prototype j as it is defined, in float64.
template <typename T>
__device__ inline double distance64(const Query<T>& query, const Table& table, int j, int lane) {
    const float* prototype = table.values + int64(j) * table.n_columns;
    const double length = table.unit ? exact_length(prototype, query.n_columns, lane) : 1.0;
    const double inverse = 1.0 / length, inverse_x = 1.0 / query.exact_length;
    double total = 0.0;
    for (int i = lane; i < query.n_columns; i += WARP) {
        const double a = quotient(to_float(query.values[i]), query.exact_length, inverse_x);
        const double t = a - quotient(prototype[i], length, inverse);
        total += t * t;
    }
    total = warp_sum(total);
    return table.unit ? 0.5 * total : sqrt(total);
}

// Distances to all candidates among the prototypes that the lanes of `owners` looked at.
template <bool EXACT, int VECTOR, typename T>
__device__ inline Found measure(const Query<T>& query, const Table& table, uint32 owners,
                                int lane) {
    Found found = {INF, INF, 0x7fffffff, true};
    for (; owners; owners &= owners - 1) {
        const int of_owner = (__ffs(owners) - 1) * OWNED;
        for (int start = 0; start < table.n_prototypes; start += WARP * WARP) {
            const int j = start + lane / OWNED * (WARP * OWNED) + of_owner + lane % OWNED;
            bool candidate = j < table.n_prototypes;
            if (candidate)
                candidate = !(upper(query, query.scores[j], query.prototypes[j]) < query.threshold);
            uint32 lanes = __ballot_sync(ALL_LANES, candidate);
            for (; lanes; lanes &= lanes - 1) {
                const int from = __ffs(lanes) - 1;
                const int which = start + from / OWNED * (WARP * OWNED) + of_owner + from % OWNED;
                add(found,
                    EXACT ? distance64(query, table, which, lane)
                          : distance32<VECTOR>(query, table, which, lane),
                    which);
            }
        }
    }
    return found;
}

// Sets the threshold, the second largest lower bound: two prototypes score at least that. Gives the
// lanes among whose prototypes a candidate is.
template <typename T>
__device__ inline uint32 find_owners(Query<T>& query, int n_prototypes, int lane) {
    float best = -INF, second = -INF, highest = -INF;
    for (int j = lane * OWNED; j < n_prototypes; j += WARP * OWNED) {
        union { float4 words; float values[OWNED]; } products;
        union { float4 words[2]; Prototype values[OWNED]; } of;
        products.words = *reinterpret_cast<const float4*>(query.scores + j);
        of.words[0] = reinterpret_cast<const float4*>(query.prototypes + j)[0];
        of.words[1] = reinterpret_cast<const float4*>(query.prototypes + j)[1];
#pragma unroll
        for (int i = 0; i < OWNED; ++i) {
            if (j + i >= n_prototypes) continue;
            const float low = lower(query.slope, products.values[i], of.values[i]);
            highest = fmaxf(highest, upper(query, products.values[i], of.values[i]));
            second = fmaxf(second, fminf(best, low));
            best = fmaxf(best, low);
        }
    }
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, best, step);
        const float other_second = __shfl_xor_sync(ALL_LANES, second, step);
        second = fmaxf(fminf(best, other), fmaxf(second, other_second));
        best = fmaxf(best, other);
    }
    query.threshold = second;
    return __ballot_sync(ALL_LANES, highest >= second);
}

template <typename T>
struct Chunk {
    Rows<T> in;
    const Row* rows;
    const Prototype* prototypes;
    const float* scores;  // (n, padded_rows)
    int padded_rows;
};

template <typename T>
__device__ inline Query<T> query_of(const Chunk<T>& chunk, int64 row) {
    return {chunk.in.values + row * chunk.in.row_stride, chunk.in.n_columns,
            chunk.scores + row * chunk.padded_rows, chunk.prototypes, chunk.rows[row].slope, -INF,
            chunk.rows[row].length, 1.0};
}

// One warp a row: the result, or −1 where float32 does not settle it.
template <int VECTOR, typename T>
__device__ inline void choose(const Chunk<T>& chunk, const Table& table, const Outputs& out) {
    const int64 row = row_of_warp();
    const int lane = threadIdx.x % WARP;
    if (row >= chunk.in.n_rows) return;
    Query<T> query = query_of(chunk, row);
    if (!(query.slope < INF)) {
        if (lane == 0) out.index[row] = UNSETTLED;
        return;
    }
    const uint32 owners = find_owners(query, table.n_prototypes, lane);
    const Found found = measure<false, VECTOR>(query, table, owners, lane);
    if (lane != 0) return;
    const double factor = chunk.rows[row].factor;
    const bool apart = found.second - found.first > found.second * 0x1p-19;
    const bool sure = found.whole && found.first * factor > (table.unit ? 1e-6 : 1e-30) &&
                      (apart || table.n_prototypes == 1);
    const float first = float(found.first * factor), second = float(found.second * factor);
    out.index[row] = sure ? found.index : UNSETTLED;
    out.distance[row] = table.unit ? first : sqrtf(first);
    out.second[row] = table.unit ? second : sqrtf(second);
}

// One warp a row: what is left, in float64 and with the last word on what is no number.
template <typename T>
__device__ inline void settle(const Chunk<T>& chunk, const Table& table, const Outputs& out) {
    const int64 row = row_of_warp();
    const int lane = threadIdx.x % WARP;
    if (row >= chunk.in.n_rows || out.index[row] != UNSETTLED) return;
    const uint32 largest = chunk.rows[row].largest;
    const bool known = !isnan(__uint_as_float(*table.widest));
    Found found = {NOT_A_NUMBER, NOT_A_NUMBER, 0, false};
    if (known && largest < INF_BITS && !(table.unit && largest == 0)) {
        Query<T> query = query_of(chunk, row);
        const bool useful = query.slope < INF;
        const uint32 owners = useful ? find_owners(query, table.n_prototypes, lane) : ALL_LANES;
        if (table.unit) query.exact_length = exact_length(query.values, query.n_columns, lane);
        found = measure<true, 1>(query, table, owners, lane);
    } else if (known && largest == INF_BITS && !table.unit) {
        found.first = found.second = INF;  // infinitely far from all
    }
    if (lane != 0) return;
    out.index[row] = found.index;
    out.distance[row] = float(found.first);
    out.second[row] = table.n_prototypes == 1 ? INF : float(found.second);
}

// ---- kernels

#define TABLE_ARGUMENTS                                                              \
    const float *table, const float *lengths, const float *centre, const uint32 *spread, \
        const uint32 *widest, int n_prototypes, int padded_columns, int unit
#define TABLE Table{table, lengths, centre, spread, widest, n_prototypes, padded_columns, unit}
#define ROW_ARGUMENTS(T) const T *values, int64 row_stride, int64 n_rows, int n_columns
#define ROWS(T) Rows<T>{values, row_stride, n_rows, n_columns}
#define KERNEL extern "C" __global__ void __launch_bounds__

KERNEL(CENTRE_WARPS * WARP) nearest_centre(TABLE_ARGUMENTS, float* mean, uint32* spreads) {
    find_centre(TABLE, mean, spreads);
}

KERNEL(BLOCK_THREADS)
nearest_round_prototypes(TABLE_ARGUMENTS, const uint32* largest, int padded_rows, int whole,
                         void* rounded, Prototype* prototypes, uint32* ratio) {
    round_prototypes(TABLE, largest, padded_rows, whole, rounded, prototypes, ratio);
}

#define COPY(NAME, T)                                                                    \
    KERNEL(BLOCK_THREADS)                                                                \
    nearest_copy_##NAME(ROW_ARGUMENTS(T), int padded_columns, int unit, float* table,    \
                        float* lengths, uint32* largest, uint32* widest) {               \
        copy_prototypes(ROWS(T), padded_columns, unit, table, lengths, largest, widest); \
    }

#define DECIDE(NAME, HOW, T)                                                              \
    KERNEL(BLOCK_THREADS)                                                                 \
    nearest_##NAME(ROW_ARGUMENTS(T), TABLE_ARGUMENTS, const Row* rows,                    \
                   const Prototype* prototypes, const float* scores, int padded_rows,     \
                   int64* index, float* distance, float* second) {                        \
        HOW(Chunk<T>{ROWS(T), rows, prototypes, scores, padded_rows}, TABLE,              \
            Outputs{index, distance, second});                                            \
    }

#define ROUND(NAME, T, VECTOR)                                                            \
    KERNEL(BLOCK_THREADS)                                                                 \
    nearest_round_##NAME##_by##VECTOR(ROW_ARGUMENTS(T), TABLE_ARGUMENTS, float gamma,     \
                                      int whole, void* rounded, Row* rows) {              \
        round_rows<VECTOR>(ROWS(T), TABLE, gamma, whole, rounded, rows);                  \
    }

#define ALL(NAME, T, VECTOR)                                    \
    COPY(NAME, T)                                               \
    ROUND(NAME, T, 1)                                           \
    ROUND(NAME, T, VECTOR)                                      \
    DECIDE(choose_##NAME##_by1, choose<1>, T)                   \
    DECIDE(choose_##NAME##_by##VECTOR, choose<VECTOR>, T)       \
    DECIDE(settle_##NAME, settle, T)

ALL(float32, float, 4)
ALL(float16, half16, 8)
ALL(bfloat16, bfloat16, 8)
