"""A live server for all tests of the session, and the same graphs in this process."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Live

from ovavss.pipeline.pipeline import Pipeline
from ovavss.runtime.engines import open_engines


@pytest.fixture(scope="session")
def server(tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if importlib.util.find_spec("pytriton") is None:
        pytest.skip("no Triton server in this environment: uv sync --group serve")
    live = Live(tiny_engines, tmp_path_factory.mktemp("serve")).start()
    yield live
    live.stop()


@pytest.fixture(scope="session")
def local(tiny_engines: Path) -> Pipeline:
    """The same graphs in this process."""
    return Pipeline(*open_engines(tiny_engines))
