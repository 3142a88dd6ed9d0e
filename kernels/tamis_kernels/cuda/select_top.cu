// The rows with the highest scores, class by class: a radix select over every class at once.
//
// Rows are ranked by three words, smallest first: the score's (32 bits), the hash of the id (64) and
// the position (32). Sixteen passes of eight bits, as two kernels each: one counts, class by class,
// the rows that share all digits so far with their class's threshold; the other fixes the digit at
// which the running sum reaches what the class keeps. A class is settled as soon as a whole bucket
// is kept. A pass that finds every class settled ends at once: the host never has to know.

constexpr int BLOCK_THREADS = 256;
constexpr int DIGIT_BITS = 8;
constexpr int N_BINS = 1 << DIGIT_BITS;
constexpr int SCORE_PASSES = 4, HASH_PASSES = 8, N_PASSES = 16;
constexpr int SHARED_BINS = 8192;  // of up to 32 classes
constexpr int ITEMS = 4;           // rows that a thread has under way
constexpr int NO_BIN = -1;

enum State : uint32 { OPEN, SETTLED, NOTHING };

// Up to where a class's rows are kept; while the state is OPEN, the digits that are known.
struct Threshold {
    uint64 tie;
    uint32 rank, place;
    uint32 wanted;  // of the rows that share these digits
    uint32 state;
};

struct Rows {
    const float* scores;
    const void* ids;
    int id_bytes;
    const void* labels;  // null: every row is of class 0
    int label_bytes;
    uint64 key;
    int64 n_rows;
    int n_classes;
    bool filling;  // passes over the rows that are kept already
};

// 32 bits that sort ascending as scores do descending; NaN last.
__device__ inline uint32 rank_of(float score) {
    const uint32 bits = __float_as_uint(score == 0.0f ? 0.0f : score);  // −0 ranks as +0
    if (isnan(score)) return 0xffffffffu;
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

__device__ inline uint64 finalise(uint64 x) {  // splitmix64's
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

__device__ inline uint64 tie_of(const Rows& in, int64 row) {
    const uint64 id = uint64(integer_at(in.ids, in.id_bytes, row));
    return finalise(finalise(id * 0x9e3779b97f4a7c15ull + in.key));
}

// −1 where the label is out of range.
__device__ inline int class_of(const Rows& in, int64 row) {
    if (in.labels == nullptr) return 0;
    const int64 label = integer_at(in.labels, in.label_bytes, row);
    return label >= 0 && label < in.n_classes ? int(label) : -1;
}

// The digit of `word` at `shift`, where the digits above are the threshold's.
__device__ inline int digit_at(uint64 word, uint64 threshold, int shift) {
    if ((word ^ threshold) >> shift >> DIGIT_BITS) return NO_BIN;
    return int(word >> shift & (N_BINS - 1));
}

// The digit that a pass looks at; NO_BIN where an earlier one is not the threshold's.
__device__ inline int digit_of(const Rows& in, const Threshold& last, uint32 rank, int64 row,
                               int pass) {
    if (pass < SCORE_PASSES)
        return digit_at(rank, last.rank, (SCORE_PASSES - 1 - pass) * DIGIT_BITS);
    if (rank != last.rank) return NO_BIN;
    const uint64 tie = tie_of(in, row);
    if (pass < SCORE_PASSES + HASH_PASSES)
        return digit_at(tie, last.tie, (SCORE_PASSES + HASH_PASSES - 1 - pass) * DIGIT_BITS);
    if (tie != last.tie) return NO_BIN;
    return digit_at(uint64(row), last.place, (N_PASSES - 1 - pass) * DIGIT_BITS);
}

// Lanes of one bin add to it once: scores share their first digits, and sorted labels the class.
__device__ inline void add_to_bin(uint32* bins, int bin) {
    const uint32 same = __match_any_sync(ALL_LANES, bin);
    const int lane = threadIdx.x % WARP;
    if (bin != NO_BIN && lane == __ffs(same) - 1) atomicAdd(&bins[bin], uint32(__popc(same)));
}

// Whole blocks take whole stretches, so that every lane is there for the exchange; a thread's loads
// come before the first branch, so that they are under way together.
__device__ inline void count_rows(const Rows& in, const Threshold* thresholds, const uint8* kept,
                                  int pass, uint32* bins) {
    const int64 stretch = int64(BLOCK_THREADS) * ITEMS;
    for (int64 start = blockIdx.x * stretch; start < in.n_rows; start += gridDim.x * stretch) {
        float scores[ITEMS];
        int labels[ITEMS];  // −1: does not take part
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const int64 row = start + i * BLOCK_THREADS + threadIdx.x;
            const int64 inside = min(row, in.n_rows - 1);
            scores[i] = in.scores[inside];
            const int label = class_of(in, inside);
            labels[i] = row >= in.n_rows || (in.filling && kept[inside]) ? -1 : label;
        }
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int bin = NO_BIN;
            if (labels[i] >= 0 && thresholds[labels[i]].state == OPEN) {
                const int64 row = start + i * BLOCK_THREADS + threadIdx.x;
                const uint32 rank = rank_of(scores[i]);
                const int digit = digit_of(in, thresholds[labels[i]], rank, row, pass);
                if (digit != NO_BIN) bin = labels[i] * N_BINS + digit;
            }
            add_to_bin(bins, bin);
        }
    }
}

#define ROWS                                                                                \
    const float *scores, const void *ids, int id_bytes, const void *labels, int label_bytes, \
        uint64 key, int64 n_rows, int n_classes, int filling
#define IN \
    Rows { scores, ids, id_bytes, labels, label_bytes, key, n_rows, n_classes, filling != 0 }

// histogram: (n_classes, N_BINS), all zero; open: (N_PASSES + 1,), whether a pass has work.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    select_top_count_global(ROWS, const Threshold* thresholds, const uint8* kept, int pass,
                            const uint32* open, uint32* histogram) {
    if (open[pass]) count_rows(IN, thresholds, kept, pass, histogram);
}

// The same for n_classes · N_BINS ≤ SHARED_BINS: few bins would be hot in global memory.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    select_top_count_shared(ROWS, const Threshold* thresholds, const uint8* kept, int pass,
                            const uint32* open, uint32* histogram) {
    __shared__ uint32 bins[SHARED_BINS];
    if (open[pass]) {  // the same for all blocks
        for (int k = threadIdx.x; k < n_classes * N_BINS; k += BLOCK_THREADS) bins[k] = 0;
        __syncthreads();
        count_rows(IN, thresholds, kept, pass, bins);
        __syncthreads();
        for (int k = threadIdx.x; k < n_classes * N_BINS; k += BLOCK_THREADS)
            if (bins[k]) atomicAdd(&histogram[k], bins[k]);
    }
}

// Puts a digit into the threshold; where its bucket is kept whole, what follows may be anything.
__device__ inline void fix_digit(Threshold& last, int pass, uint32 digit, bool whole) {
    const int end = pass < SCORE_PASSES ? SCORE_PASSES
                    : pass < SCORE_PASSES + HASH_PASSES ? SCORE_PASSES + HASH_PASSES : N_PASSES;
    const int shift = (end - 1 - pass) * DIGIT_BITS;
    const uint64 bits = uint64(digit) << shift | (whole ? (1ull << shift) - 1 : 0);
    if (end == SCORE_PASSES) last.rank |= uint32(bits);
    if (end == SCORE_PASSES + HASH_PASSES) last.tie |= bits;
    if (end == N_PASSES) last.place |= uint32(bits);
    if (!whole) return;
    last.state = SETTLED;
    if (end == SCORE_PASSES) last.tie = ~0ull;
    if (end != N_PASSES) last.place = ~0u;
}

// A warp a class: fixes one digit of each open threshold and empties its bins.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    select_top_narrow(Threshold* thresholds, uint32* histogram, int n_classes, int pass,
                      uint32* open, uint64* taken) {
    constexpr int OWN = N_BINS / WARP;
    const int lane = threadIdx.x % WARP;
    const int64 label = (int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x) / WARP;
    if (!open[pass] || label >= n_classes || thresholds[label].state != OPEN) return;  // whole warps
    Threshold last = thresholds[label];
    uint32* bins = histogram + label * N_BINS + lane * OWN;
    uint32 counts[OWN], own = 0;
#pragma unroll
    for (int k = 0; k < OWN; ++k) {
        counts[k] = bins[k];
        bins[k] = 0;
        own += counts[k];
    }
    uint32 up_to = own;  // rows in the bins of this lane and the lanes before
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const uint32 other = __shfl_up_sync(ALL_LANES, up_to, step);
        if (lane >= step) up_to += other;
    }
    const uint32 all = __shfl_sync(ALL_LANES, up_to, WARP - 1);
    if (lane == 0 && pass == 0) atomicAdd(taken, uint64(min(last.wanted, all)));
    uint32 before = up_to - own;
    if (lane == 0 && all <= last.wanted) {  // the class is kept whole
        thresholds[label] = {~0ull, ~0u, ~0u, 0, SETTLED};
    } else if (all > last.wanted && before < last.wanted && last.wanted <= up_to) {
        int k = 0;
        while (before + counts[k] < last.wanted) before += counts[k++];
        last.wanted -= before;
        fix_digit(last, pass, lane * OWN + k, last.wanted == counts[k]);
        thresholds[label] = last;
        if (last.state == OPEN) open[pass + 1] = 1;
    }
}

// Empties a histogram for n_classes and starts the search; quotas may be null: then one class
// wants what is left of `count`.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    select_top_start(const void* quotas, int quota_bytes, uint64 count, Threshold* thresholds,
                     uint32* histogram, int n_classes, uint32* open, uint64* taken, int filling) {
    const int64 i = int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
    if (i < int64(n_classes) * N_BINS) histogram[i] = 0;
    if (i <= N_PASSES) open[i] = i == 0;
    if (i < n_classes) {
        int64 wanted = quotas != nullptr ? integer_at(quotas, quota_bytes, i)
                       : filling ? int64(count) - int64(*taken) : int64(count);
        wanted = min(max(wanted, int64(0)), int64(0xffffffffu));
        thresholds[i] = {0, 0, 0, uint32(wanted), wanted ? uint32(OPEN) : uint32(NOTHING)};
        if (i == 0 && !filling) *taken = 0;
    }
}

// kept: (n_rows,); where it is filled up, what is kept stays so.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    select_top_mark(ROWS, const Threshold* thresholds, uint8* kept) {
    const Rows in = IN;
    const int64 row = int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
    if (row >= n_rows || (in.filling && kept[row])) return;
    const int label = class_of(in, row);
    bool keep = label >= 0 && thresholds[label].state == SETTLED;
    if (keep) {
        const Threshold last = thresholds[label];
        const uint32 rank = rank_of(scores[row]);
        keep = rank < last.rank;
        if (rank == last.rank) {
            const uint64 tie = tie_of(in, row);
            keep = tie < last.tie || (tie == last.tie && uint64(row) <= last.place);
        }
    }
    kept[row] = keep;
}
