"""Champion, contest and gate: whether a head is better than the one in use, and the package to serve."""
