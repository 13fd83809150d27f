"""A small reader of TensorFlow Lite files: the weights of the convolutions and linear layers, dequantized."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovavss.errors import UserError

# Codes of the operators that have weights: convolution, depthwise convolution, fully connected.
CONV, DEPTHWISE_CONV, FULLY_CONNECTED = 3, 4, 9
_TYPES = {0: np.float32, 2: np.int32, 9: np.int8}


@dataclass(frozen=True)
class Layer:
    """One operator with weights, in the order of the file; weight and bias as the file lays them out, in float32."""

    operator: int
    weight: np.ndarray
    bias: np.ndarray


class _Table:
    """A table of a flatbuffer; fields are numbered as in the schema."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - self._number("<i", position)

    def _number(self, form: str, position: int) -> int:
        return int(struct.unpack_from(form, self._data, position)[0])

    def _field(self, index: int) -> int | None:
        entry = 4 + 2 * index
        if entry >= self._number("<H", self._fields):
            return None
        offset = self._number("<H", self._fields + entry)
        return self._position + offset if offset else None

    def number(self, index: int, form: str = "<i") -> int:
        position = self._field(index)
        return 0 if position is None else self._number(form, position)

    def table(self, index: int) -> "_Table | None":
        position = self._field(index)
        return None if position is None else _Table(self._data, position + self._number("<I", position))

    def vector(self, index: int, dtype: str) -> np.ndarray:
        position = self._field(index)
        if position is None:
            return np.zeros(0, dtype)
        start = position + self._number("<I", position)
        return np.frombuffer(self._data, dtype, self._number("<I", start), start + 4)

    def tables(self, index: int) -> list["_Table"]:
        position = self._field(index)
        if position is None:
            return []
        start = position + self._number("<I", position)
        entries = range(start + 4, start + 4 + 4 * self._number("<I", start), 4)
        return [_Table(self._data, entry + self._number("<I", entry)) for entry in entries]


def read_layers(path: Path) -> list[Layer]:
    """All operators with weights, in the order in which they are computed.

    Raises:
        UserError: The file is not a TensorFlow Lite model.
    """
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise UserError(f"{path} is not a TensorFlow Lite model; remove it, so that it is fetched again")
    model = _Table(data, struct.unpack_from("<I", data)[0])
    # The old byte-sized field of the code holds 127 where the new one is needed.
    codes = [max(code.number(0, "<b"), code.number(3)) for code in model.tables(1)]
    buffers = model.tables(4)
    graph = model.tables(2)[0]
    tensors = graph.tables(0)
    layers = []
    for operator in graph.tables(3):
        code = codes[operator.number(0, "<I")]
        if code in (CONV, DEPTHWISE_CONV, FULLY_CONNECTED):
            weight, bias = (_dequantized(tensors[k], buffers) for k in operator.vector(1, "<i4")[1:3])
            layers.append(Layer(code, weight, bias))
    return layers


def read_labels(path: Path) -> list[str]:
    """The names of the classes, which such a file carries as a zip archive at its end."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0]).decode("utf-8").split("\n")[:-1]


def _dequantized(tensor: _Table, buffers: list[_Table]) -> np.ndarray:
    shape = tensor.vector(0, "<i4").tolist()
    dtype = np.dtype(_TYPES[tensor.number(1, "<b")]).newbyteorder("<")
    values = buffers[tensor.number(2, "<I")].vector(0, "u1").view(dtype).reshape(shape).astype(np.float32)
    quantization = tensor.table(4)
    if quantization is None:
        return values
    scale = quantization.vector(2, "<f4")
    zero = quantization.vector(3, "<i8").astype(np.float32)
    if not len(scale):
        return values
    along = [1] * len(shape)
    along[quantization.number(6)] = -1 if len(scale) > 1 else 1
    return (values - zero.reshape(along)) * scale.reshape(along)
