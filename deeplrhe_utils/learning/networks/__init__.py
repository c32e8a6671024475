"""Networks, weights, model cards."""
