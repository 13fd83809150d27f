"""The general trainer."""
