"""The search: schedules of brackets, samplers, promotion. Pure functions of the space and of what has been measured; no torch."""
