"""The empirical audit: bounds, checks and canaries that try to falsify a claim."""
