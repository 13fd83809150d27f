"""The CPU kernels against float64: every instruction set, every kind of input."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import golden_model
import golden_set
import numpy as np
import pytest
import reference
import torch
from building import PLUGIN, compiler, run
from cases import SMALL, Case, adversarial_cases, large, random_case
from core import Core, sizes_of

from ovavss.msda import ms_deform_attn as model

TOLERANCE = 1e-5
ADVERSARIAL = adversarial_cases()


def _machine_has(isa: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    needed = {"portable": [], "avx2": ["avx2", "fma"], "avx512": ["avx512f", "avx512dq"]}[isa]
    return all(flag in flags for flag in needed)


@pytest.fixture(scope="session")
def core(core_library: Path) -> Core:
    return Core(core_library)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernels choose the best that they may: the variable holds them back."""
    if not _machine_has(request.param):
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv("OVAVSS_MSDA_CPU", request.param)
    yield request.param


def check(core: Core, form: str, case: Case, threads: int = 1) -> None:
    actual = getattr(core, form)(*case.inputs(form), threads=threads)
    wanted = getattr(reference, form)(*case.inputs(form))
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial(core: Core, isa: str, form: str, name: str) -> None:
    if name == "logits of minus infinity" and form == "plain":
        return
    check(core, form, ADVERSARIAL[name])


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_sizes(core: Core, isa: str, form: str) -> None:
    """Every step of the channel loop, tails of the coordinate loop, chunks of heads, limits of levels and points."""
    channels, levels, points, heads = (8, 16, 24, 32, 40, 64), (1, 3, 4, 8), (1, 4, 5, 8, 16), (1, 3, 8)
    several = list(itertools.product(channels, levels, points, heads))
    for index, (d, count, p, m) in enumerate(several):
        if d != 32 and index % 5:  # all of 32's, a fifth of the others
            continue
        shapes = [(2 + level, 7 - level % 5) for level in range(count)]
        of_batch, of_levels = (1, 2)[index % 2], (1, count)[index // 2 % 2]
        check(core, form, random_case(shapes, 2, 3, m, d, p, of_batch, of_levels, seed=index))


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_many_queries(core: Core, isa: str, form: str) -> None:
    """With as many queries as tokens a task is one head, or a part of its queries, whose values are packed first."""
    shapes = [(9, 13), (5, 7), (3, 4)]
    for index, (batch, heads, channels, points) in enumerate(
        itertools.product((1, 2), (2, 8), (8, 24, 32), (1, 3, 4, 16))
    ):
        case = random_case(shapes, batch, 175, heads, channels, points, reference_levels=(1, 3)[index % 2], seed=index)
        check(core, form, case, threads=1 + index % 2)


def test_model_shape(core: Core, isa: str) -> None:
    """The r50 pixel decoder's levels, where coordinates are largest: against the float64 definition on some queries."""
    shapes = [(48, 80), (24, 40), (12, 20)]
    check(core, "plain", random_case(shapes, batch=1, queries=300, heads=8))
    check(core, "fused", random_case(shapes, batch=1, queries=300, heads=8))


def test_wide_maps(core: Core, isa: str) -> None:
    """On a row of 20000 pixels, a coordinate rounded to float32 is 1/1024 pixel off; the fraction must not be."""
    case = random_case([(2, 20000)], batch=1, queries=50, heads=1, channels=8)
    check(core, "plain", case)


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_threads_change_nothing(core: Core, isa: str, form: str) -> None:
    case = random_case([(48, 80), (24, 40), (12, 20)], batch=3, queries=700, heads=8)
    one = getattr(core, form)(*case.inputs(form), threads=1)
    for threads in (0, 2, 5):
        assert np.array_equal(one, getattr(core, form)(*case.inputs(form), threads=threads))


def test_int32_shapes(core: Core) -> None:
    case = random_case(SMALL)
    narrow = core.plain(case.value, case.shapes.astype(np.int32), case.locations, case.weights)
    assert np.array_equal(narrow, core.plain(*case.plain()))


@pytest.mark.parametrize(
    ("field", "number", "sentence"),
    [
        ("batch", -1, "batch, tokens and queries must not be negative"),
        ("tokens", 2**31, "there must be fewer than 2^31 tokens"),
        ("heads", 0, "there must be at least one head"),
        ("channels", 12, "the channels of a head must be a multiple of 8"),
        ("channels", 2**31, "heads * channels must be below 2^31"),
        ("levels", 9, "there must be 1 to 8 levels"),
        ("points", 17, "there must be 1 to 16 points"),
        ("points", 0, "there must be 1 to 16 points"),
        ("reference_batch", 3, "reference_batch must be batch or 1"),
        ("reference_levels", 2, "reference_levels must be levels or 1"),
        ("value_type", 7, "value_type must be float32, float16 or bfloat16"),
        ("weight_type", 2, "weight_type must be float32 or value_type"),
        ("queries", 2**60, "a tensor must be smaller than 2^62 bytes"),
    ],
)
def test_refused_sizes(core: Core, field: str, number: int, sentence: str) -> None:
    case = random_case(SMALL)
    sizes = sizes_of(case.value, case.shapes, case.logits, case.references)
    assert core.check(sizes) is None
    setattr(sizes, field, number)
    assert core.check(sizes) == sentence


def test_refused_level_shapes(core: Core) -> None:
    case = random_case(SMALL)
    for shapes, sentence in (
        ([(1, 1), (3, 5), (6, 5)], "the level shapes do not add up to the number of tokens"),
        ([(1, 1), (3, -5), (6, 4)], "a level's height or width is negative"),
        ([(1, 1), (3, 5), (2**23, 4)], "a level's height or width is above 2^22"),
    ):
        with pytest.raises(ValueError, match=sentence.replace("^", r"\^")):
            core.plain(case.value, np.array(shapes), case.locations, case.weights)


@pytest.mark.parametrize(
    ("batch", "heads", "channels", "side"),
    [(1, 1, 8, 2**14 + 192), (5, 64, 8, 2**10)],
    ids=["within a batch", "from batch to batch"],
)
def test_past_two_to_the_31(core: Core, isa: str, batch: int, heads: int, channels: int, side: int) -> None:
    """Values at the very end of more than 2^31 elements, most of which are never touched."""
    value = large((batch, side * side, heads, channels))
    rng = np.random.default_rng(0)
    value[-1, -2 * side :, -1] = rng.standard_normal((2 * side, channels))
    locations = 1 - rng.uniform(0, 2 / side, (batch, 4, heads, 1, 3, 2)).astype(np.float32)
    weights = rng.uniform(0, 1, (batch, 4, heads, 1, 3)).astype(np.float32)
    shapes = np.array([(side, side)])
    actual = core.plain(value, shapes, locations, weights)
    tail = value[-1:, -2 * side :, -1:].copy()
    lower = locations[-1:, :, -1:].astype(np.float64)
    lower[..., 1] = (lower[..., 1] * side - (side - 2)) / 2
    wanted = reference.plain(tail, np.array([(2, side)]), lower, weights[-1:, :, -1:])
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(actual.reshape(batch, 4, heads, channels)[-1, :, -1], wanted[0], atol=TOLERANCE)
    assert not actual.reshape(batch, 4, heads, channels)[-1, :, : heads - 1].any()


@pytest.mark.golden
def test_golden(core: Core, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published attention layer with the kernel in place of the model's own op."""
    file = golden_set.load("03b_msdeform")
    shapes = [tuple(shape) for shape in file["spatial_shapes"].tolist()]
    tokens = file["attn_out"].shape
    query, src = golden_set.normal("input:msda:query", tokens), golden_set.normal("input:msda:src", tokens)
    layer = golden_model.usslm("r50").pixel_decoder.layers[0]

    def kernel(value: torch.Tensor, level_shapes: model.LevelShapes, *places: torch.Tensor) -> torch.Tensor:
        arrays = [tensor.numpy() for tensor in (value, *places)]
        return torch.from_numpy(core.fused(arrays[0], np.array(level_shapes), *arrays[1:]))

    monkeypatch.setattr(model, "ms_deform_attn_fused", kernel)
    out = layer.attention(query, torch.from_numpy(file["reference_points"]), src, shapes)
    assert golden_set.relative_error(file, "attn_out", out) < 2e-5


def test_sanitizers(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer over all kernels: tight buffers, odd sizes, hard locations."""
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        run([compiler(), *flags, str(probe), "-o", str(tmp_path / "probe")])
    except AssertionError:
        pytest.skip("the compiler has no sanitizers: install libasan and libubsan")
    driver, objects = tmp_path / "driver", []
    for source, isa_flags in {
        "msda_check.cpp": [],
        "cpu/job.cpp": ["-DOVAVSS_MSDA_X86"],
        "cpu/portable.cpp": [],
        "cpu/avx2.cpp": ["-mavx2", "-mfma"],
        "cpu/avx512.cpp": ["-mavx512f", "-mavx512dq", "-mavx2", "-mfma"],
    }.items():
        objects.append(str(tmp_path / f"{Path(source).stem}.o"))
        includes = [f"-I{PLUGIN}", f"-I{PLUGIN / 'include'}"]
        run([compiler(), *flags, *isa_flags, *includes, "-c", str(PLUGIN / source), "-o", objects[-1]])
    source = str(Path(__file__).parent / "sanitizer_driver.cpp")
    run([compiler(), *flags, f"-I{PLUGIN / 'include'}", source, *objects, "-pthread", "-o", str(driver)])
    assert "cases" in run([str(driver)])
