"""ONNX files: read with a sentence for what is wrong, written whole or not at all."""

import os
import shutil
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import uses_external_data

from ovavss.errors import UserError
from ovavss.files import check_regular_file, written_whole

_LARGEST_PROTOBUF = 2**31 - 1


def read(path: Path) -> onnx.ModelProto:
    """The model without its external data."""
    check_regular_file(path)
    try:
        if path.stat().st_size > _LARGEST_PROTOBUF:
            raise UserError(f"{path} is larger than the 2 GB of a protobuf; export it with external data")
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give an ONNX file") from error
    except DecodeError as error:
        raise UserError(f"{path} is not an ONNX model; give a file that an ONNX exporter wrote") from error
    if not model.ir_version or not model.graph.output:
        raise UserError(f"{path} is not an ONNX model; give a file that an ONNX exporter wrote")
    return model


def check_output(source: Path, out: Path, model: onnx.ModelProto) -> None:
    """UserError where `out` cannot be written, or would lie elsewhere than the model's external data."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}; make it or give another path")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent} cannot be written; give a path in another folder")
    if out.parent.resolve() != source.parent.resolve() and any(map(uses_external_data, model.graph.initializer)):
        raise UserError(
            f"{source} keeps weights in files beside it, which OUT would not find; give OUT in {source.parent}"
        )


def copy(source: Path, out: Path) -> None:
    """The same bytes."""
    with written_whole(out) as partial:
        shutil.copyfile(source, partial)


def write(model: onnx.ModelProto, source: Path, out: Path) -> None:
    """Checked by onnx, unless it finds fault with the model as it came, too."""
    with written_whole(out) as partial:
        try:
            partial.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise UserError(f"{out} would be larger than the 2 GB of a protobuf") from error
        if (fault := _fault(partial)) and not _fault(source):
            raise UserError(f"the rewritten model is not valid ({fault}); nothing was written, please report it")


def _fault(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None
