// The kernels of row_scores: the scores are written, and that is all.

#define KERNEL(SHAPE) row_scores_##SHAPE
#define ALL_ARGUMENTS(T) ARGUMENTS(T)
#define OUT SCORES

EVERY_KERNEL
