"""Acceptance in a serving engine: workload, counters, measurement. Each engine is a folder here."""
