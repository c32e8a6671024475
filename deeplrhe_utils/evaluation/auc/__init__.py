"""AUCs with intervals, from tile scores of ours or of others."""
