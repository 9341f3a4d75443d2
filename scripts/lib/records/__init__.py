"""Record types, the context of a measurement, comparison, and the layout of the results tree."""
