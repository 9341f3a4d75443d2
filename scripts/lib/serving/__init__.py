"""The serving measurement: engine, workload, counters."""
