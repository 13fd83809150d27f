"""Runners: one artifact in one runtime."""
