"""The speed of training compared with the usual recipe: python -m benchmarks."""
