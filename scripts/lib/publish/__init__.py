"""What is recorded of an improvement: the standing baseline and the perf lake."""
