"""The steps from a clip to masks and names."""
