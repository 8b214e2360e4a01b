"""Records of finished runs: their contents, and where they are stored."""
