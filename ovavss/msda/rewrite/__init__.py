"""Finds multi-scale deformable attention in a stranger's ONNX model and replaces it with our op."""
