// Counters and running moments of every example, updated by the scores of some of them.
//
// Where an id may come several times, claim_examples first finds its last row; a maximum does not
// depend on the order of threads. Then every row has one thread, and of the rows of one id only
// the claim's owner does anything: no two threads write the same example.

extern "C" __global__ void claim_examples(
    int64 n_rows, const void* ids, int id_bytes, int64 n_examples, int* claim) {
    const int64 row = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= n_rows) return;
    const int64 example = id_at(Ids{ids, id_bytes, false}, row, n_examples);
    if (example >= 0) atomicMax(&claim[example], int(row));
}

// Scores of quantities that are not tracked are not read; any pointer will do for them.
extern "C" __global__ void update_statistics(
    int64 n_rows, const float* loss, const float* el2n, const float* margin, const float* entropy,
    const float* p_label, const uint8* correct, STATE_ARGUMENTS) {
    const int64 row = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= n_rows) return;
    const float* scores[N_QUANTITIES] = {loss, el2n, margin, entropy, p_label};
    float values[N_QUANTITIES];
#pragma unroll
    for (int q = 0; q < N_QUANTITIES; ++q) values[q] = tracked >> q & 1 ? scores[q][row] : 0.0f;
    update_example(STATE, IDS, row, values, correct[row]);
}
