"""Late fusion: weights on the simplex, fitted on out-of-fold probabilities."""
