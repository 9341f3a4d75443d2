"""Search strategies side by side on a synthetic surface; see README.md."""
