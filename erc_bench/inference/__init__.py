"""A finished run as a model for new dialogues."""
