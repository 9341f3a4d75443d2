"""vLLM's server, load driver and context."""
