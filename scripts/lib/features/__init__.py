"""What heads are trained and measured on: prompts, the target's responses, hidden states, data sets."""
