"""Samplers: where the points come from that a bracket starts with."""
