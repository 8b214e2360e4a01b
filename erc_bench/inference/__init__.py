"""Use a finished run as a model for new dialogues."""
