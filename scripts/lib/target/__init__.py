"""The target model, its facts from its files, and the tiny target trained by the workflow."""
