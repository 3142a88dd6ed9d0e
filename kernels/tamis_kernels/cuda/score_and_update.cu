// The kernels of score_and_update: the lane that finishes a row also updates the row's example.
//
// The scores are those of row_scores, the statistics those of update_statistics; they only skip the
// way through memory and a launch. claim_examples has to have run before, unless ids are distinct.

struct ScoresAndState {
    Scores scores;
    Statistics state;
    Ids ids;
};

__device__ inline void finish(const Others& row, int64 at, const ScoresAndState& out) {
    const RowScores found = scores_of(row);
    write(found, at, out.scores);
    const float values[N_QUANTITIES] = {found.loss, found.el2n, found.margin, found.entropy,
                                        found.p_label};
    update_example(out.state, out.ids, at, values, found.correct);
}

#define KERNEL(SHAPE) score_and_update_##SHAPE
#define ALL_ARGUMENTS(T) ARGUMENTS(T), STATE_ARGUMENTS
#define OUT ScoresAndState{SCORES, STATE, IDS}

EVERY_KERNEL
