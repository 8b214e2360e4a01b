"""Corpora: what a dialogue is, where files are found, how they are read and checked."""
