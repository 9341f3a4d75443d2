"""The thinking behind the rules: plain functions and types, importable and tested without Snakemake."""
