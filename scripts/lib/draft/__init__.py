"""Draft heads: training data, models, training with exact resume, export."""
