"""What a finished run leaves: the record, and where it lies."""
