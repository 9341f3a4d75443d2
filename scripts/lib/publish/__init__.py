"""Publication of an improvement in the standing baseline and the perf lake."""
