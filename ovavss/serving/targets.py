"""The servers that a repository can be written for. Imports nothing."""

from enum import StrEnum


class Target(StrEnum):
    """The vendor's container with TensorRT plans or ONNX files, or any server with the Python back end."""

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"
    PYTHON = "python"
