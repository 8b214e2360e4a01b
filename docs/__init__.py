"""Documentation, and what writes its tables."""
