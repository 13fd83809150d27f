"""Multi-scale deformable attention: the PyTorch operator, the ONNX node and its bodies, the built libraries."""
