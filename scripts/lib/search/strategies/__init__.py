"""Strategies: one file each, a schedule plus a sampler. A new file here is a new value of the configuration's `strategy`."""
