"""Graphs to artifacts: formats, precision, verification, manifest."""
