"""What the ops share: argument checks, choice of backend, row chunks, and formulas that two ops need."""
