"""Better INT8: weights rounded and rescaled, biases corrected, layers left out that cost most."""
