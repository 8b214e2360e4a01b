"""Measurements one can repeat: python -m benchmarks.NAME."""
