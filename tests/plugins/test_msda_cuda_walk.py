"""The CUDA source on the CPU: every instance of the kernel, thread by thread, against float64."""

import ctypes
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from cases import SMALL, Case, adversarial_cases, guarded, large, random_case
from core import Core

ADVERSARIAL = adversarial_cases()
# Half a unit in the last place of the output's type, for outputs up to 4; coordinates and sums are float32 throughout.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
TYPES = [("float32", "float32"), *itertools.product(["float16"], ["float32", "float16"])]
TYPES += [("bfloat16", "float32"), ("bfloat16", "bfloat16")]


@pytest.fixture(scope="session")
def core(walked_library: Path) -> Core:
    return Core(walked_library)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """As the kernel takes it: bfloat16 as its bits."""
    if dtype == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array)).bfloat16().view(torch.uint16).numpy()
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def exact(array: np.ndarray) -> np.ndarray:
    """What those numbers are."""
    return torch.from_numpy(array).view(torch.bfloat16).double().numpy() if array.dtype == np.uint16 else array


def check(core: Core, form: str, case: Case, value_type: str = "float32", weight_type: str = "float32") -> str:
    """Returns the instance that ran."""
    typed = replace(
        case,
        value=guarded(rounded(case.value, value_type)),
        weights=rounded(case.weights, weight_type),
        offsets=rounded(case.offsets, weight_type),
        logits=rounded(case.logits, weight_type),
    )
    actual = exact(getattr(core, form)(*typed.inputs(form), device="cuda"))
    wanted = getattr(reference, form)(*(exact(array) for array in typed.inputs(form)))
    # The sum's own error is far below: what is left is the rounding of the output.
    np.testing.assert_allclose(actual, wanted, rtol=TOLERANCE[value_type] / 4, atol=TOLERANCE[value_type])
    return (ctypes.c_char * 256).in_dll(core.library, "walked").value.decode()


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_every_instance(core: Core, form: str) -> None:
    """32 channels with 4 to 8 points, and the generic one, of all types: none is left out."""
    instances = set()
    for (value_type, weight_type), points in itertools.product(TYPES, (4, 5, 6, 7, 8, 3, 16)):
        for levels in (3, 4):
            shapes = [(3 + level, 6 - level) for level in range(levels)]
            case = random_case(shapes, queries=11, points=points, reference_levels=(1, levels)[points % 2], seed=points)
            instances.add(check(core, form, case, value_type, weight_type))
    assert len(instances) == len(TYPES) * 6


@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_other_sizes(core: Core, form: str, types: tuple[str, str]) -> None:
    for channels, levels, points, heads in [(8, 1, 1, 1), (16, 8, 16, 2), (64, 2, 4, 5), (40, 5, 2, 3), (32, 1, 4, 1)]:
        shapes = [(2 + level, 7 - level % 5) for level in range(levels)]
        check(core, form, random_case(shapes, 3, 5, heads, channels, points, 1, levels), *types)


@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial(core: Core, form: str, name: str, channels: int) -> None:
    case = ADVERSARIAL[name]
    if channels == 32:  # the fast instance: the same places with values twice as long
        case = replace(case, value=guarded(np.concatenate([case.value] * (32 // case.value.shape[-1]), axis=-1)))
    check(core, form, case)


@pytest.mark.parametrize("types", [("float16", "float16"), ("bfloat16", "bfloat16")], ids="-".join)
def test_coordinates_stay_float32(core: Core, types: tuple[str, str]) -> None:
    """At 256 pixels half would place samples 1/8 pixel apart; ours are where the float32 locations say."""
    case = random_case([(200, 300)], batch=1, queries=40, heads=1)
    check(core, "plain", case, *types)


def test_int32_shapes(core: Core) -> None:
    case = random_case(SMALL)
    narrow = replace(case, shapes=case.shapes.astype(np.int32))
    assert np.array_equal(core.plain(*narrow.plain(), device="cuda"), core.plain(*case.plain(), device="cuda"))


def test_wrong_level_shapes_give_nan(core: Core) -> None:
    """They are read on the device, where nothing can be reported: no read outside, and no plausible number."""
    case = random_case(SMALL)
    for wrong in ([(1, 1), (3, 5), (6, 5)], [(1, 1), (3, 5), (5, 4)], [(1, 1), (-3, -5), (6, 4)], [(2**40, 0)] * 3):
        output = core.plain(*replace(case, shapes=np.array(wrong)).plain(), device="cuda")
        assert np.isnan(output).all()


def test_refused(core: Core) -> None:
    with pytest.raises(ValueError, match=r"CUDA error 1$"):
        core.plain(*random_case(SMALL, channels=12).plain(), device="cuda")


def test_indices_past_two_to_the_31(core: Core) -> None:
    rng = np.random.default_rng(0)
    for name, sizes in {"value_index": 3, "point_index": 4}.items():
        function = getattr(core.library, name)
        function.restype = ctypes.c_int64
        for _ in range(200):
            # 61 bits shared out at random, so that every partial product passes 2^31 in some of the trials.
            bits = 61 * rng.dirichlet(np.ones(sizes + 1))
            leading, *size = (int(2**bit) for bit in bits)
            index = [int(rng.integers(0, n)) for n in (leading, *size)]
            flat = 0
            for at, n in zip(index, [1, *size]):
                flat = flat * n + at
            assert function(*(ctypes.c_int64(number) for number in (*index, *size))) == flat
    function = core.library.reference_index
    function.restype = ctypes.c_int64
    for batches, levels in itertools.product((1, 2**9), (1, 8)):
        numbers = (300, 2**30 + 7, 5, batches, 2**31, levels)
        of_batch, of_level = (0 if batches == 1 else 300), (0 if levels == 1 else 5)
        wanted = ((of_batch * 2**31 + 2**30 + 7) * levels + of_level) * 2
        assert function(*map(ctypes.c_int64, numbers)) == wanted


@pytest.mark.parametrize("channels", [8, 32])
def test_values_past_two_to_the_31(core: Core, channels: int) -> None:
    """The last rows of one level of more than 2^31 elements, most of which are never touched."""
    side = int((2**31 / channels) ** 0.5) + 200
    value = large((1, side * side, 1, channels))
    rng = np.random.default_rng(0)
    value[0, -2 * side :] = rng.standard_normal((2 * side, 1, channels))
    locations = 1 - rng.uniform(0, 2 / side, (1, 4, 1, 1, 4, 2)).astype(np.float32)
    weights = rng.uniform(0, 1, (1, 4, 1, 1, 4)).astype(np.float32)
    actual = core.plain(value, np.array([(side, side)]), locations, weights, device="cuda")
    lower = locations.astype(np.float64)
    lower[..., 1] = (lower[..., 1] * side - (side - 2)) / 2
    wanted = reference.plain(value[:, -2 * side :].copy(), np.array([(2, side)]), lower, weights)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5)
