"""Weights that an ONNX model keeps in files beside it.

The onnx package refuses weights files that are links, as hub caches have them, so they are checked and read here.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

from ovavss.errors import UserError

_LFS_POINTER = b"version https://git-lfs"
# Runtimes map aligned weights into memory.
_ALIGNMENT = 4096


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model whose values lie in other files."""
    yield from filter(uses_external_data, _graph_tensors(model.graph))
    for function in model.functions:
        yield from filter(uses_external_data, _node_tensors(function.node))


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)


def locate(tensor: TensorProto, folder: Path) -> tuple[Path, int, int | None]:
    """The file that holds an external tensor, where in it, and how many bytes (None: the rest of the file).

    Raises:
        UserError: The file is missing, outside the folder, a Git LFS pointer, or too short.
    """
    info = ExternalDataInfo(tensor)
    place = Path(info.location)
    path = folder / place
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise UserError(f"the model's weights file {place} lies outside its folder; save the model anew")
    if not path.is_file():
        state = "a link to a file that is missing" if path.is_symlink() else "missing or not a file"
        raise UserError(f"the model's weights file {path} is {state}; put it beside the model")
    if is_lfs_pointer(path):
        raise UserError(f"the model's weights file {path} is a Git LFS pointer; fetch it with `git lfs pull`")
    start, end = info.offset or 0, (info.offset or 0) + (info.length or 0)
    if end > (size := path.stat().st_size):
        raise UserError(
            f"the model's weights file {path} is cut short ({size} bytes, but {tensor.name!r} ends at {end}); "
            "fetch it again"
        )
    return path, start, info.length


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left a short text in place of the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def read(tensor: TensorProto, folder: Path) -> TensorProto:
    """The same tensor with its values inside it."""
    path, start, length = locate(tensor, folder)
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(-1 if length is None else length)
    return TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name, raw_data=content)


def is_found_from(tensors: Iterable[TensorProto], source: Path, out: Path) -> bool:
    """Whether runtimes find the weights of the model `source` from the model `out`, too.

    ONNX Runtime refuses files that lie outside the model's real folder, so weights behind links are not found.
    """
    folder = out.parent.resolve()
    places = {ExternalDataInfo(tensor).location for tensor in tensors}
    return source.parent.resolve() == folder and all(
        (source.parent / place).resolve().is_relative_to(folder) for place in places
    )


def gather(tensors: Iterable[TensorProto], folder: Path, file: BinaryIO, location: str) -> None:
    """Copies the values of external tensors into one file, and makes the tensors name it as `location`."""
    for tensor in tensors:
        tensor.raw_data = read(tensor, folder).raw_data
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        set_external_data(tensor, location, file.tell(), len(tensor.raw_data))
        file.write(tensor.raw_data)
        tensor.ClearField("raw_data")
