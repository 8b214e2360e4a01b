"""How fast the methods train against the usual recipe: python -m benchmarks."""
