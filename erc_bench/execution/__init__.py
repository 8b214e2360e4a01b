"""Runs, one or many, from settings to records."""
