"""Run by the interpreter that has TensorRT's Python bindings: registers the ahead-of-time plugins and asks them.

usage: aot_life.py LIBRARY_FOLDER HOST_LIBRARY FOLDER_OF_AOT_PLUGIN, with JSON on stdin: a list of [op, tensors] or
[onnx file]. Prints one line of JSON a question.
"""

import contextlib
import ctypes
import importlib
import json
import sys
from pathlib import Path

libraries, host_library, plugin_folder = sys.argv[1:]
for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
    ctypes.CDLL(str(next(Path(libraries).glob(f"{name}.so.*"))), mode=ctypes.RTLD_GLOBAL)
with contextlib.suppress(ImportError):
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
sys.path.append(plugin_folder)
with contextlib.redirect_stdout(sys.stderr):  # the bindings log there
    importlib.import_module("aot_plugin")

host = ctypes.CDLL(host_library)
host.aot_life.restype = host.aot_parse.restype = ctypes.c_char_p
for question in json.load(sys.stdin):
    words = [word.encode() for word in question]
    if len(words) == 2:
        print("ANSWER " + host.aot_life(*words).decode(), flush=True)
    else:
        print("ANSWER " + json.dumps({"plugin": host.aot_parse(*words).decode()}), flush=True)
