"""Where the ONNX Runtime operator's library is looked for, and when it is registered."""

import sys
from pathlib import Path

import onnxruntime
import pytest

from ovavss.errors import UserError
from ovavss.msda import libraries as custom_op


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with nothing built."""
    monkeypatch.delenv("OVAVSS_PLUGIN_DIR", raising=False)
    monkeypatch.setattr(custom_op, "_REPOSITORY", tmp_path)
    monkeypatch.setitem(sys.modules, "ovavss_msda", None)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / custom_op.LIBRARY).write_bytes(b"not a library")
    return folder / custom_op.LIBRARY


def test_order(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert custom_op.custom_op_library() is None
    installed = put(tree / "site" / "ovavss_msda" / "lib")
    (installed.parents[1] / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "ovavss_msda")
    assert custom_op.custom_op_library() == installed
    built = put(tree / "build" / "plugins")
    assert custom_op.custom_op_library() == built
    given = put(tree / "elsewhere")
    monkeypatch.setenv("OVAVSS_PLUGIN_DIR", str(given.parent))
    assert custom_op.custom_op_library() == given


def test_a_given_folder_must_hold_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVAVSS_PLUGIN_DIR", str(tree))
    with pytest.raises(UserError, match=r"OVAVSS_PLUGIN_DIR: .* does not exist; build it with `make plugins` or unset"):
        custom_op.custom_op_library()


def test_nothing_built(tree: Path) -> None:
    given = onnxruntime.SessionOptions()
    assert custom_op.session_options(["CPUExecutionProvider"], given) is given


def test_a_broken_library(tree: Path) -> None:
    put(tree / "build" / "plugins")
    with pytest.raises(UserError, match=r"cannot be loaded .*; build it again with `make plugins`"):
        custom_op.session_options(["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("providers", "cuda", "registered"),
    [
        (["CPUExecutionProvider"], False, True),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], True, True),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], False, False),
        (["NvTensorRTRTXExecutionProvider", "CPUExecutionProvider"], True, False),
    ],
)
def test_only_where_it_helps(
    tree: Path, monkeypatch: pytest.MonkeyPatch, providers: list[str], cuda: bool, registered: bool
) -> None:
    class Options:
        libraries: tuple[str, ...] = ()

        def register_custom_ops_library(self, path: str) -> None:
            self.libraries = (path,)

    library = put(tree / "build" / "plugins")
    monkeypatch.setattr(custom_op, "has_cuda", lambda path: cuda)
    options = Options()
    custom_op.session_options(providers, options)  # type: ignore[arg-type]
    assert options.libraries == ((str(library),) if registered else ())
