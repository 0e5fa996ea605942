"""Methods: data in, scores or a plan out; none of them writes a checkpoint."""
