"""vLLM: its server, its load driver, and what it says of itself."""
