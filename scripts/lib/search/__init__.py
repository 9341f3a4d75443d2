"""The search: schedules of brackets, samplers, promotion. All are pure functions of the space and the measurements, without torch."""
