"""Each graph's model.py where the server has no back end but Python; the vendor's container needs none."""

from ovavss.serving.graph_step import GraphStep as TritonPythonModel

__all__ = ["TritonPythonModel"]
