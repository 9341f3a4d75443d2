"""Draft heads: models, training with exact resume, evaluation, export."""
