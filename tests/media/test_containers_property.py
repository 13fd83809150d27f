"""Any file is read, or refused in one sentence: never a traceback, a crash, a hang, or silence without a warning."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_containers import Damage, Recipe, damages, recipes, write
from reading_process import Outcome, ReadingProcess

FILES = 300
ANY_FILE = settings(
    max_examples=FILES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def process() -> Iterator[ReadingProcess]:
    process = ReadingProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


def check(outcome: Outcome, recipe: Recipe) -> None:
    assert outcome.refused or not outcome.error, outcome.error
    if outcome.refused:
        assert len(outcome.error) < 400 and "\n" not in outcome.error
        return
    assert outcome.snippets >= 1 and outcome.finite
    assert recipe.audio_codec is None or outcome.peak > 1e-3 or outcome.warned, "silence without a warning"


@ANY_FILE
@given(recipe=recipes())
def test_whole_files(process: ReadingProcess, folder: Path, recipe: Recipe) -> None:
    path = folder / f"a.{recipe.container}"
    assume(write(path, recipe))
    outcome = process.read(path, recipe.audio_codec is None)
    check(outcome, recipe)
    assert outcome.refused == (recipe.video_codec is None), outcome.error
    if outcome.refused:
        return
    if recipe.shared_seconds >= 0.3 and not (recipe.sound_gap or recipe.picture_gap or recipe.sound_start):
        assert 0.3 < outcome.peak < 0.8, f"peak {outcome.peak}"
    whole = max(1, int(recipe.frames / recipe.frame_rate + 0.5))
    if not recipe.picture_gap and recipe.container != "gif":
        assert abs(outcome.snippets - whole) <= 1, f"{outcome.snippets} snippets in place of {whole}"


@ANY_FILE
@given(recipe=recipes(), damage=st.lists(damages, min_size=1, max_size=3))
def test_damaged_files(process: ReadingProcess, folder: Path, recipe: Recipe, damage: list[Damage]) -> None:
    path = folder / f"b.{recipe.container}"
    assume(write(path, recipe))
    data = path.read_bytes()
    for one in damage:
        data = one.apply(data) or b"\0"
    path.write_bytes(data)
    check(process.read(path, silent=False), recipe)
