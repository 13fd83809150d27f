"""Open-vocabulary audio-visual semantic segmentation: model, export and runtime.

Importing the package loads no heavy library; import the submodule you need.
"""

__version__ = "0.2.0"
