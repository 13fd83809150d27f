"""Results: their types, files and pictures."""
