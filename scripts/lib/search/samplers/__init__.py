"""Samplers draw the points that a bracket starts with."""
