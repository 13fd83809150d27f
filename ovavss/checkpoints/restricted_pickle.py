"""Reads pickles of NumPy arrays without running anything that the pickle names.

The few globals that such a pickle needs are replaced by inert holders of our own, so that the file never calls NumPy:
a forged dtype state given to NumPy itself could turn bytes into object pointers.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle asks for a function or class that array files have no use for; `name` is its dotted name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NotNumbers(pickle.UnpicklingError):
    """An array of Python objects, text or records."""


class _Holder:
    """A class, not a function, and with `__setstate__`: a pickle cannot change the attributes of the class itself."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("this object has no state")


class _NdarrayType(_Holder):
    """Stands for `numpy.ndarray`, which pickles name as an argument and never call."""


class _Dtype(_Holder):
    """Stands for `numpy.dtype`: booleans, integers and floats only."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|16))", code):
            raise NotNumbers(f"an array of type {code!r}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("unknown state of a dtype")
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray(_Holder):
    """Stands for an array; `array` is set when the pickle has been read."""

    def __init__(self, subtype: object, shape: object = None, code: object = None) -> None:
        if subtype is not _NdarrayType:
            raise pickle.UnpicklingError("only plain arrays are read")
        self.array: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("unknown state of an array")
        _, shape, dtype, is_fortran, data = state
        self._fill(data, dtype, shape, "F" if is_fortran else "C")

    def _fill(self, data: object, dtype: object, shape: object, order: object) -> None:
        if isinstance(data, str):
            # Written by Python 2 and read as latin1.
            data = data.encode("latin1")
        known = isinstance(data, bytes | bytearray) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)
        if not known or order not in ("C", "F"):
            raise pickle.UnpicklingError("unknown contents of an array")
        assert isinstance(data, bytes | bytearray) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError("unknown shape of an array")
        array: np.ndarray = np.ndarray(shape, dtype.dtype, data, order="F" if order == "F" else "C")
        if array.nbytes != len(data):
            raise pickle.UnpicklingError("an array and its bytes differ in size")
        self.array = array


class _ArrayFromBuffer(PickledArray):
    """Protocol 5's form: bytes, dtype, shape, order."""

    def __init__(self, data: object, dtype: object, shape: object, order: object) -> None:
        super().__init__(_NdarrayType)
        self._fill(data, dtype, shape, order)


class _Scalar(PickledArray):
    def __init__(self, dtype: object, data: object) -> None:
        super().__init__(_NdarrayType)
        self._fill(data, dtype, (), "C")


class _Encode(_Holder):
    """Stands for `_codecs.encode`, with which Python 3 writes bytes into old protocols."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("bytes in another encoding than latin1")
        return text.encode("latin1")


class _NoBytes(_Holder):
    """Stands for `bytes`, with which Python 3 writes empty bytes into old protocols."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _NdarrayType,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _NoBytes,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = PickledArray
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _ArrayFromBuffer


def numpy_holders() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The holders of NumPy's scalars, arrays and dtypes with the names that they stand for, for `torch.load`."""
    return [(holder, f"{module}.{name}") for (module, name), holder in _ALLOWED.items() if module.startswith("numpy")]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ForbiddenGlobal(f"{module}.{name}") from None


def load(file: BinaryIO) -> object:
    """The pickled object, its arrays as `PickledArray`.

    Raises:
        ForbiddenGlobal: the pickle names anything but plain arrays, dtypes and OrderedDict; nothing of it has run.
        NotNumbers: an array holds something else.
        Exception: whatever `pickle` raises for a damaged file.
    """
    return _Unpickler(file, encoding="latin1").load()
