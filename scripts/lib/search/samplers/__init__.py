"""Samplers: each yields candidate points without end or until the space is exhausted; the search takes the feasible new ones."""
