// Influence of every training example on every test example, reduced without the matrix.
//
// A model is a bit: of 32 models a word, and the models trained on i and right on j are the ones of
// AND. Counting them is a matrix product of bits, which the tensor cores have had since compute
// capability 8.0 (mma, .b1, .and.popc): 16 × 8 × 256 bits an instruction. Counting in registers,
// even behind a carry-save adder (Harley & Seal; Warren, Hacker's Delight, 2nd ed., §5–1), is bound
// by 16 population counts and 64 logic operations a clock and multiprocessor: some 25 words of 32
// pairs, where the tensor cores of an A100 take 512. (sm_80 and sm_90 have the instruction; for
// sm_100 the compiler builds it from products of bytes.) All sums are integers: no order of blocks
// or threads changes a bit of the results.

constexpr int BLOCK_THREADS = 256;
constexpr int GROUP = 16;              // examples that are packed together: the rows of an mma
constexpr int STEP_WORDS = 8;          // 256 models: the depth of an mma
constexpr int BLOB = GROUP * STEP_WORDS;  // words of a group and a step: 4 of each lane
constexpr int TILE = 128;              // training examples and test examples that a block multiplies
constexpr int TILE_GROUPS = TILE / GROUP;
constexpr int WARPS_DOWN = 4, WARPS_ACROSS = 2;  // of a block; a warp has 32 × 64 of the tile
constexpr int OWN_DOWN = TILE_GROUPS / WARPS_DOWN, OWN_ACROSS = TILE_GROUPS / WARPS_ACROSS;
constexpr int SMALLEST = int(0x80000000u);

// Adds to c the product of 16 × 256 bits (a) and 256 × 8 bits (b0, b1), as a warp holds them: lane l
// has the words l % 4 and l % 4 + 4 of the rows l / 4 and l / 4 + 8 of a (in the order row, row + 8,
// then the later word), the same words of column l / 4 of b, and of c the columns 2 (l % 4) and the
// next, in the rows l / 4 and then l / 4 + 8 (PTX ISA, "Matrix fragments for mma.m16n8k256").
__device__ inline void multiply_bits(int (&c)[4], const uint4& a, uint32 b0, uint32 b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
    __shared__ uint32 words[BLOCK_THREADS][6];
    uint32* own = words[threadIdx.x];
    own[0] = a.x, own[1] = a.y, own[2] = a.z, own[3] = a.w, own[4] = b0, own[5] = b1;
    __syncwarp();
    const uint32(*of_lane)[6] = words + threadIdx.x / WARP * WARP;
    const int row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    for (int k = 0; k < 4; ++k) {
        const uint32* down = of_lane[row * 4 + k];
        for (int next = 0; next < 2; ++next) {
            const uint32* across = of_lane[(column + next) * 4 + k];
            c[next] += __popc(down[0] & across[4]) + __popc(down[2] & across[5]);
            c[2 + next] += __popc(down[1] & across[4]) + __popc(down[3] & across[5]);
        }
    }
    __syncwarp();
#endif
}

// Where a blob holds a word of an example: what a lane needs are four neighbouring words, the rows
// of a as multiply_bits has them, or two columns of b.
__device__ inline int place_in_blob(int example, int word, bool columns) {
    const int lane = example % 8 * 4 + word % 4;
    return lane * 4 + (columns ? example / 8 * 2 + word / 4 : example / 8 + word / 4 * 2);
}

// flags: (n_models, n_examples) bytes, rows row_stride apart. packed: (groups, n_steps, BLOB) words
// and counts: (groups · GROUP,), where the examples are padded to whole tiles; columns: for b. 32
// examples a block: a warp reads 32 models of them.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    influence_pack(const uint8* flags, int64 row_stride, int n_models, int64 n_examples,
                   int n_steps, int columns, uint32* packed, int* counts) {
    __shared__ uint32 blobs[2 * BLOB];
    __shared__ int parts[BLOCK_THREADS];
    const int lane = threadIdx.x % WARP, word = threadIdx.x / WARP;
    const int64 example = int64(blockIdx.x) * WARP + lane;
    const int64 own_group = int64(blockIdx.x) * 2 + threadIdx.x / BLOB;
    int count = 0;
    for (int step = 0; step < n_steps; ++step) {
        const int first = (step * STEP_WORDS + word) * 32;
        uint32 bits = 0;
        if (example < n_examples) {
            const uint8* flag = flags + first * row_stride + example;
#pragma unroll 16
            for (int k = 0; k < 32; ++k)
                if (first + k < n_models) bits |= uint32(flag[k * row_stride] != 0) << k;
        }
        count += __popc(bits);
        blobs[lane / GROUP * BLOB + place_in_blob(lane % GROUP, word, columns)] = bits;
        __syncthreads();
        packed[(own_group * n_steps + step) * BLOB + threadIdx.x % BLOB] = blobs[threadIdx.x];
        __syncthreads();
    }
    parts[threadIdx.x] = count;
    __syncthreads();
    if (word == 0) {
        for (int k = 1; k < STEP_WORDS; ++k) count += parts[k * WARP + lane];
        counts[example] = count;
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    influence_start(int64 n_train, int* largest, uint64* total) {
    const int64 i = int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
    if (i < n_train) largest[i] = SMALLEST, total[i] = 0;
}

struct Packed {
    const uint32* words;
    const int* counts;
    int64 n_examples;
};

// The blob that a thread carries to shared memory, of one tile and step.
__device__ inline uint4 blob_part(const Packed& in, int64 tile, int n_steps, int step) {
    const int64 group = tile * TILE_GROUPS + threadIdx.x / WARP;
    const uint4* parts = reinterpret_cast<const uint4*>(in.words);
    return parts[(group * n_steps + step) * WARP + threadIdx.x % WARP];
}

// What a lane has of its warp's part of the tile.
struct Overlaps {
    int of[OWN_DOWN][OWN_ACROSS * 2][4];
};

__device__ inline void multiply_step(Overlaps& sums, const uint4* train, const uint4* test) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint4 a[OWN_DOWN];
#pragma unroll
    for (int i = 0; i < OWN_DOWN; ++i)
        a[i] = train[(warp / WARPS_ACROSS * OWN_DOWN + i) * WARP + lane];
#pragma unroll
    for (int j = 0; j < OWN_ACROSS; ++j) {
        // A group of test examples is two products wide: its first eight, its last eight.
        const uint4 b = test[(warp % WARPS_ACROSS * OWN_ACROSS + j) * WARP + lane];
#pragma unroll
        for (int i = 0; i < OWN_DOWN; ++i) {
            multiply_bits(sums.of[i][2 * j], a[i], b.x, b.y);
            multiply_bits(sums.of[i][2 * j + 1], a[i], b.z, b.w);
        }
    }
}

// Largest A·m − C·a and the sum of their absolute values, of a lane's rows so far.
struct Result {
    int largest[OWN_DOWN * 2];
    uint64 total[OWN_DOWN * 2];
};

// Each difference is at most a·(m − a) < 2^30: its terms may wrap around in 32 bits, itself and the
// sum of four cannot.
template <bool WHOLE>
__device__ inline void reduce_tile(Result& result, const Overlaps& sums, const Packed& test,
                                   int64 tile, int n_models, const uint32 (&trained)[OWN_DOWN * 2]) {
    const int warp = threadIdx.x / WARP;
    const int64 start = tile * TILE + warp % WARPS_ACROSS * OWN_ACROSS * GROUP + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < OWN_ACROSS * 2; j += 2) {
        uint32 part[OWN_DOWN * 2] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int64 column = start + (j + half) * 8;
            const uint2 right = *reinterpret_cast<const uint2*>(test.counts + column);
#pragma unroll
            for (int row = 0; row < OWN_DOWN * 2; ++row) {
                const int* overlap = sums.of[row / 2][j + half] + row % 2 * 2;
                const int first = int(overlap[0] * uint32(n_models) - right.x * trained[row]);
                const int second = int(overlap[1] * uint32(n_models) - right.y * trained[row]);
                if (WHOLE || column < test.n_examples) {
                    result.largest[row] = max(result.largest[row], first);
                    part[row] += abs(first);
                }
                if (WHOLE || column + 1 < test.n_examples) {
                    result.largest[row] = max(result.largest[row], second);
                    part[row] += abs(second);
                }
            }
        }
#pragma unroll
        for (int row = 0; row < OWN_DOWN * 2; ++row) result.total[row] += part[row];
    }
}

// The training example of one of a lane's rows.
__device__ inline int64 example_of(int row) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    return int64(blockIdx.x) * TILE + (warp / WARPS_ACROSS * OWN_DOWN * 2 + row) * 8 + lane / 4;
}

// Four lanes hold a row, and two warps and several blocks add to it.
__device__ inline void add_result(Result& result, int64 n_train, int* largest, uint64* total) {
#pragma unroll
    for (int row = 0; row < OWN_DOWN * 2; ++row) {
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            const int other = __shfl_xor_sync(ALL_LANES, result.largest[row], step);
            result.largest[row] = max(result.largest[row], other);
            result.total[row] += __shfl_xor_sync(ALL_LANES, result.total[row], step);
        }
        const int64 example = example_of(row);
        if (threadIdx.x % 4 == 0 && example < n_train) {
            atomicMax(&largest[example], result.largest[row]);
            atomicAdd(&total[example], result.total[row]);
        }
    }
}

// A block multiplies the training tile blockIdx.x with every gridDim.y-th test tile. The blobs of
// the next step are on their way in registers while this step's are multiplied.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 2)
    influence_reduce(const uint32* train_words, const int* train_counts, int64 n_train,
                     const uint32* test_words, const int* test_counts, int64 n_test, int n_models,
                     int n_steps, int* largest, uint64* total) {
    __shared__ uint4 train_blobs[2][BLOCK_THREADS], test_blobs[2][BLOCK_THREADS];
    const Packed train{train_words, train_counts, n_train}, test{test_words, test_counts, n_test};
    uint32 trained[OWN_DOWN * 2];
    Result result;
#pragma unroll
    for (int row = 0; row < OWN_DOWN * 2; ++row) {
        trained[row] = train.counts[example_of(row)];
        result.largest[row] = SMALLEST;
        result.total[row] = 0;
    }
    uint4 next_train = blob_part(train, blockIdx.x, n_steps, 0);
    uint4 next_test = blob_part(test, blockIdx.y, n_steps, 0);
    int buffer = 0;
    for (int64 tile = blockIdx.y; tile * TILE < n_test; tile += gridDim.y) {
        Overlaps sums = {};
        for (int step = 0; step < n_steps; ++step, buffer ^= 1) {
            train_blobs[buffer][threadIdx.x] = next_train;
            test_blobs[buffer][threadIdx.x] = next_test;
            __syncthreads();  // one suffices: the other buffer is written before the next
            const bool last = step + 1 == n_steps;
            const int64 next_tile = last ? tile + gridDim.y : tile;
            if (next_tile * TILE < n_test) {
                next_train = blob_part(train, blockIdx.x, n_steps, last ? 0 : step + 1);
                next_test = blob_part(test, next_tile, n_steps, last ? 0 : step + 1);
            }
            multiply_step(sums, train_blobs[buffer], test_blobs[buffer]);
        }
        if ((tile + 1) * TILE <= n_test)
            reduce_tile<true>(result, sums, test, tile, n_models, trained);
        else
            reduce_tile<false>(result, sums, test, tile, n_models, trained);
    }
    add_result(result, n_train, largest, total);
}

// numerator / (a · (m − a)); NaN for an example that was in no subset or in all.
__device__ inline float ratio(double numerator, int n_models, int n_trained) {
    const int64 pairs = int64(n_trained) * (n_models - n_trained);
    return pairs ? float(numerator / double(pairs)) : NOT_A_NUMBER;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    influence_finish(const int* largest, const uint64* total, const int* train_counts,
                     int64 n_train, int n_models, float* out_largest, float* out_total) {
    const int64 i = int64(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
    if (i >= n_train) return;
    const bool any = largest[i] != SMALLEST;  // no test examples
    out_largest[i] = any ? ratio(largest[i], n_models, train_counts[i]) : NOT_A_NUMBER;
    out_total[i] = ratio(double(total[i]), n_models, train_counts[i]);
}

// masks, correct: (n_models, n) bytes. 32 examples a block, an eighth of the models a warp.
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    influence_memorization(const uint8* masks, int64 mask_stride, const uint8* correct,
                           int64 correct_stride, int n_models, int64 n, float* out) {
    constexpr int N_WARPS = BLOCK_THREADS / WARP;
    __shared__ int trained[BLOCK_THREADS], right[BLOCK_THREADS], both[BLOCK_THREADS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int64 example = int64(blockIdx.x) * WARP + lane;
    int a = 0, c = 0, overlap = 0;
    if (example < n) {
#pragma unroll 8
        for (int model = warp; model < n_models; model += N_WARPS) {
            const int in = masks[model * mask_stride + example] != 0;
            const int is_right = correct[model * correct_stride + example] != 0;
            a += in, c += is_right, overlap += in & is_right;
        }
    }
    trained[threadIdx.x] = a, right[threadIdx.x] = c, both[threadIdx.x] = overlap;
    __syncthreads();
    if (warp == 0 && example < n) {
        for (int k = 1; k < N_WARPS; ++k) {
            a += trained[k * WARP + lane];
            c += right[k * WARP + lane];
            overlap += both[k * WARP + lane];
        }
        const int64 difference = int64(overlap) * n_models - int64(c) * a;
        out[example] = ratio(double(difference), n_models, a);
    }
}
