"""ONNX files: read with a sentence for what is wrong, written whole or not at all."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import uses_external_data

from ovavss.errors import UserError
from ovavss.files import check_regular_file, written_whole
from ovavss.msda.rewrite import external_data

_LARGEST_PROTOBUF = 2**31 - 1


def read(path: Path) -> onnx.ModelProto:
    """The model; its external data stays in its files, which are checked."""
    check_regular_file(path)
    try:
        if path.stat().st_size > _LARGEST_PROTOBUF:
            raise UserError(f"{path} is larger than the 2 GB of a protobuf; export it with external data")
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give an ONNX file") from error
    except DecodeError as error:
        if external_data.is_lfs_pointer(path):
            raise UserError(f"{path} is a Git LFS pointer; fetch it with `git lfs pull`") from error
        raise UserError(f"{path} is not an ONNX model; give a file that an ONNX exporter wrote") from error
    if not model.ir_version or not model.graph.output:
        raise UserError(f"{path} is not an ONNX model; give a file that an ONNX exporter wrote")
    for tensor in external_data.external_tensors(model):
        external_data.locate(tensor, path.parent)
    return model


def check_output(out: Path) -> None:
    """Raises UserError where `out` cannot be written."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}; make it or give another path")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent} cannot be written; give a path in another folder")


def write(model: onnx.ModelProto, source: Path, out: Path, changed: bool) -> None:
    """Writes a model that was read from `source`; its external weights are copied where `out` would not find them.

    The model is checked by onnx, unless it finds fault with the model as it came, too.
    """
    if changed and (fault := _fault(model)) and not _fault(onnx.load_model(source, load_external_data=False)):
        raise UserError(f"the rewritten model is not valid ({fault}); nothing was written, please report it")
    weights = list(external_data.external_tensors(model))
    with ExitStack() as stack:
        partial = stack.enter_context(written_whole(out))
        if not external_data.is_found_from(weights, source, out):
            data = out.with_name(f"{out.name}.data")
            with stack.enter_context(written_whole(data)).open("wb") as file:
                external_data.gather(weights, source.parent, file, data.name)
        elif not changed:
            shutil.copyfile(source, partial)
            return
        try:
            partial.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise UserError(f"{out} would be larger than the 2 GB of a protobuf") from error


def _fault(model: onnx.ModelProto) -> str | None:
    """What onnx finds wrong with a model, its external weights left out."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    graph = skeleton.graph
    given = {value.name for value in graph.input}
    for index in reversed([i for i, tensor in enumerate(graph.initializer) if uses_external_data(tensor)]):
        tensor = graph.initializer.pop(index)
        if tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(skeleton)
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None
