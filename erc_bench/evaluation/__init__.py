"""Predictions to figures, and what figures say about methods."""

NO_ANSWER = -1
"""The predicted class of an utterance for which a method gave no answer. It counts as wrong."""
