"""What makes training fast and could be left out: a switch for each, with what it gains."""
