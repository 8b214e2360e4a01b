"""Predictions to figures, and what figures say about methods."""
