"""The target model, its prompts and its responses."""
