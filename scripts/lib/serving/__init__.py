"""Measurement of acceptance in a serving engine. Each engine is a subfolder."""
