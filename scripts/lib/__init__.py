"""The logic behind the rules, as plain functions and types that can be tested without Snakemake."""
