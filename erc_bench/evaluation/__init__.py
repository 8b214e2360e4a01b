"""Metrics of predictions, and statistics that compare methods."""

NO_ANSWER = -1
"""The predicted class of an utterance for which a method gave no answer. It counts as wrong."""
