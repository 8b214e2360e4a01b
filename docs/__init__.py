"""The documentation, and the commands that write its tables and picture."""
