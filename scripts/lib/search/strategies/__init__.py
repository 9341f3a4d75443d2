"""Search strategies, one file each with a schedule and a sampler. A new file is a new value of the configuration's `strategy`."""
