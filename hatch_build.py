"""Puts the operator libraries that OVAVSS_WHEEL_LIBRARIES names into the wheel, which then is for this platform."""

import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibrariesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Without the variable the wheel is pure Python and its runners look for libraries in build/plugins."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the libraries of the named folder to the wheel as ovavss/lib."""
        folder = os.environ.get("OVAVSS_WHEEL_LIBRARIES")
        if not folder or version == "editable":
            return
        libraries = sorted(Path(folder).glob("libovavss_*.so"))
        if not libraries:
            raise FileNotFoundError(f"{folder} holds no libovavss_*.so: run `make plugins` first")
        build_data["force_include"].update({str(path.resolve()): f"ovavss/lib/{path.name}" for path in libraries})
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
