// What is kept of every example over its presentations; for the kernels that update it.

constexpr int N_QUANTITIES = 5;  // loss, el2n, margin, entropy, p_label

struct Statistics {
    int64 n_examples;
    int tracked;  // bit q: the quantity q has a row in means and m2
    int *count, *forgetting, *first_learned;
    uint8* last_correct;
    float *means, *m2;  // (tracked quantities, n_examples)
    int* claim;         // the row that counts among those of one id; -1 between calls
    const int* epoch;
};

struct Ids {
    const void* values;
    int bytes;
    bool distinct;
};

__device__ inline int64 id_at(const Ids& ids, int64 row, int64 n_examples) {
    const int64 id = integer_at(ids.values, ids.bytes, row);
    return id >= 0 && id < n_examples ? id : -1;
}

// The example that a row updates; -1 where its id is out of range or a later row has the same id.
// The winner frees the claim: whatever the order, the other rows find its number or -1 there.
__device__ inline int64 example_of(const Statistics& state, const Ids& ids, int64 row) {
    const int64 example = id_at(ids, row, state.n_examples);
    if (example < 0 || ids.distinct) return example;
    if (state.claim[example] != row) return -1;
    state.claim[example] = -1;
    return example;
}

// The counters of one example; gives its presentations so far.
__device__ inline int count_presentation(const Statistics& state, int64 example, bool correct) {
    if (correct) {
        const int first = state.first_learned[example], epoch = *state.epoch;
        if (first < 0 || epoch < first) state.first_learned[example] = epoch;
    } else if (state.last_correct[example]) {
        ++state.forgetting[example];
    }
    state.last_correct[example] = correct;
    return ++state.count[example];
}

// Welford's update of a mean and a sum of squares by the count-th value; in float64, so that only the
// stored result is rounded.
__device__ inline void add_value(float& mean_at, float& m2_at, int count, float value) {
    const double before = count > 1 ? mean_at : 0.0f, squares = count > 1 ? m2_at : 0.0f;
    const double delta = value - before, mean = before + delta / count;
    const double added = count > 1 ? delta * (value - mean) : 0.0;
    const bool broken = isnan(delta) || isinf(delta);
    mean_at = broken ? NOT_A_NUMBER : float(mean);
    m2_at = broken ? NOT_A_NUMBER : float(squares + added);
}

// One row's presentation; of the values only the tracked ones are looked at.
__device__ inline void update_example(const Statistics& state, const Ids& ids, int64 row,
                                      const float (&values)[N_QUANTITIES], bool correct) {
    const int64 example = example_of(state, ids, row);
    if (example < 0) return;
    const int count = count_presentation(state, example, correct);
    int64 at = example;
#pragma unroll
    for (int q = 0; q < N_QUANTITIES; ++q) {
        if (!(state.tracked >> q & 1)) continue;
        add_value(state.means[at], state.m2[at], count, values[q]);
        at += state.n_examples;
    }
}

#define STATE_ARGUMENTS                                                                       \
    int64 n_examples, int tracked, int *count, int *forgetting, int *first_learned,           \
        uint8 *last_correct, float *means, float *m2, int *claim, const int *epoch,           \
        const void *ids, int id_bytes, int distinct
#define STATE                                                                                 \
    Statistics{n_examples, tracked, count, forgetting, first_learned, last_correct, means, m2, \
               claim, epoch}
#define IDS Ids{ids, id_bytes, distinct != 0}
