"""Data of training and measurement: prompts, the target's responses, hidden states, data sets."""
