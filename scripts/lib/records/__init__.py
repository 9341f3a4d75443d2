"""What is filed: record types, the context of a number, comparison, and the layout of the results tree."""
