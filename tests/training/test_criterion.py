"""The set criterion: golden 08 and the behavior that the golden vectors do not cover."""

import math
from collections.abc import Callable

import pytest
import torch
from golden_set import SALT, SET, load, normal, seeds, smooth
from torch import Tensor

from ovavss.training.criterion import ClipTarget, SetCriterion
from ovavss.training.matcher import HungarianMatcher, Rand, pairwise_dice_cost, pairwise_mask_cost

T = SET["frames"]["T"]
HEIGHT, WIDTH = SET["criterion"]["padded"]
TAGS = ["final", *(f"aux{i}" for i in range(9))]
Outputs = list[tuple[Tensor, Tensor]]


def golden_outputs() -> Outputs:
    outputs = []
    for tag in TAGS:
        logits = normal(f"input:crit:{tag}:logits", (1, 100, 2))
        masks = 4.0 * smooth(f"input:crit:{tag}:masks", (1, 100, T, HEIGHT // 4, WIDTH // 4), 6)
        outputs.append((logits, masks + normal(f"input:crit:{tag}:dc", (1, 100, 1, 1, 1), 2.0)))
    return outputs


def grid(shape: tuple[int, ...]) -> Tensor:
    k = torch.arange(112 * 112)
    points = torch.stack([(k % 112 + 0.5) / 112, (k // 112 + 0.5) / 112], dim=-1)
    return points.expand(shape)


class SeededDraws:
    """The k-th draw of the golden set."""

    def __init__(self, first: int = 0) -> None:
        self.count = first
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self.shapes.append(shape)
        self.count += 1
        return torch.from_numpy(seeds.crit_rand(self.count - 1, shape, SALT))


def check_golden(case: str, criterion: SetCriterion, target: ClipTarget, draws: Callable[[int], Rand]) -> None:
    file = load("08_criterion")
    outputs = golden_outputs()
    if target.first_frame_only:
        # A garbage second frame shows that only frame 0 is read.
        outputs = [(logits, torch.cat([masks[:, :, :1], masks[:, :, :1] * -3], 2)) for logits, masks in outputs]
    losses = criterion(outputs, [target], draws(0))
    expected = dict(zip(file[f"{case}__loss_names"].tolist(), file[f"{case}__loss_values"].tolist(), strict=True))
    assert set(losses) == set(expected)
    actual = {name: value.item() for name, value in losses.items()}
    assert actual == pytest.approx(expected, rel=1e-4)
    assert criterion.total(losses).item() == pytest.approx(float(file[f"{case}__total_weighted"]), rel=1e-4)
    for i, (logits, masks) in enumerate(outputs):
        [(query, instance)] = criterion.matcher(logits, masks, [target], draws(i))
        pairs = torch.stack([query, instance], 1).numpy()
        assert (pairs == file[f"{case}__match_query_target"][i]).all(), f"matching of {TAGS[i]}"


def golden_masks() -> Tensor:
    masks = torch.from_numpy(seeds.crit_targets(SALT, T, HEIGHT, WIDTH))
    assert (masks.sum((2, 3)).numpy() == load("08_criterion")["target_area"]).all()
    return masks


def golden_criterion(**options: float) -> SetCriterion:
    ce, dice, mask = load("08_criterion")["weights_ce_dice_mask"].tolist()
    return SetCriterion(loss_weights=(ce, mask, dice), **options)


@pytest.mark.golden
def test_golden_grid() -> None:
    criterion = golden_criterion(importance_sample_ratio=0.0)
    check_golden("grid", criterion, ClipTarget(golden_masks()), lambda head: grid)


@pytest.mark.golden
def test_golden_grid_v1s() -> None:
    criterion = golden_criterion(importance_sample_ratio=0.0)
    # The set supervises its one frame with the targets of frame 1; bool masks must do as well as float ones.
    masks = golden_masks()[:, [1, 0]].bool()
    check_golden("grid_v1s", criterion, ClipTarget(masks, first_frame_only=True), lambda head: grid)


@pytest.mark.golden
def test_golden_seeded() -> None:
    draws = SeededDraws()
    check_golden(
        "seeded",
        golden_criterion(),
        ClipTarget(golden_masks()),
        lambda head: draws if head == 0 and draws.count == 0 else SeededDraws(3 * head),
    )
    assert draws.shapes[:3] == [(1, 12544, 2), (2 * T, 37632, 2), (2 * T, 3136, 2)]
    assert draws.count == 3 * len(TAGS)


def small_outputs(batch: int = 1, heads: int = 2, dtype: torch.dtype = torch.float32) -> Outputs:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return (3 * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()

    return [(random(batch, 6, 2), random(batch, 6, 3, 8, 10)) for _ in range(heads)]


def small_target(instances: int = 2, seed: int = 0, first_frame_only: bool = False) -> ClipTarget:
    generator = torch.Generator().manual_seed(seed)
    return ClipTarget(torch.rand(instances, 3, 32, 40, generator=generator) < 0.3, first_frame_only)


def fixed_draws() -> Rand:
    generator = torch.Generator().manual_seed(7)
    return lambda shape: torch.rand(shape, generator=generator)


def test_clip_without_instances_keeps_the_graph() -> None:
    criterion = SetCriterion(num_points=50)
    outputs = small_outputs()
    losses = criterion(outputs, [small_target(0)])
    criterion.total(losses).backward()
    assert losses["loss_mask"].item() == 0.0 and losses["loss_dice_0"].item() == 0.0
    for logits, masks in outputs:
        assert logits.grad is not None and logits.grad.abs().sum() > 0
        assert masks.grad is not None and (masks.grad == 0).all()
    # All queries are "not sounding": the weighted mean is the plain mean of one class.
    expected = -outputs[0][0].log_softmax(-1)[..., 1].mean()
    assert losses["loss_ce"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_batch_is_normalized_by_its_instances() -> None:
    """Mask losses of a batch are the clips' sums over the batch's instances, whatever the mix of clips."""
    criterion = SetCriterion(num_points=9, importance_sample_ratio=0.0)
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(1))
    targets = [small_target(2, 1), small_target(0), small_target(3, 2, first_frame_only=True)]
    outputs = small_outputs(batch=3)
    together = criterion(outputs, targets, points.expand)
    alone = [
        criterion([(logits[b : b + 1], masks[b : b + 1]) for logits, masks in outputs], [target], points.expand)
        for b, target in enumerate(targets)
    ]
    for name in ("loss_mask", "loss_dice_0"):
        expected = (2 * alone[0][name] + 3 * alone[2][name]) / 5
        assert together[name].item() == pytest.approx(expected.item(), rel=1e-5)


def test_draw_order_in_a_batch() -> None:
    shapes = []

    def draw(shape: tuple[int, ...]) -> Tensor:
        shapes.append(shape)
        return torch.full(shape, 0.5)

    targets = [small_target(2), small_target(0), small_target(1, first_frame_only=True)]
    SetCriterion(num_points=8)(small_outputs(batch=3, heads=1), targets, draw)
    assert shapes == [(1, 8, 2), (1, 8, 2), (7, 24, 2), (7, 2, 2)]


def test_gradient_flows_to_matched_masks_and_repeats() -> None:
    criterion = SetCriterion(num_points=64)
    grads = []
    for _ in range(2):
        outputs = small_outputs(heads=1)
        criterion.total(criterion(outputs, [small_target(2)], fixed_draws())).backward()
        [(_, masks)] = outputs
        assert masks.grad is not None
        grads.append(masks.grad)
    assert torch.equal(*grads)
    matched = grads[0].abs().sum((0, 2, 3, 4)) > 0
    assert matched.sum() == 2


def test_training_on_the_criterion_finds_the_masks() -> None:
    criterion = SetCriterion(num_points=256)
    target = ClipTarget(torch.zeros(2, 3, 32, 40, dtype=torch.bool))
    target.masks[0, :, 4:16, 4:20] = True
    target.masks[1, 1:, 16:28, 20:36] = True
    [(logits, masks)] = small_outputs(heads=1)
    optimizer = torch.optim.Adam([logits, masks], lr=0.3)
    draws = fixed_draws()
    for _ in range(80):
        optimizer.zero_grad()
        criterion.total(criterion([(logits, masks)], [target], draws)).backward()
        optimizer.step()
    sounding = logits[0].argmax(-1) == 0
    assert sounding.sum() == 2
    predicted = masks[0, sounding] > 0
    wanted = target.masks[:, :, 2::4, 2::4]
    errors = [(predicted != wanted[order]).float().mean().item() for order in ([0, 1], [1, 0])]
    assert min(errors) < 0.02


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_pairwise_costs_agree_with_the_losses(kind: str) -> None:
    """The linear form of the cost matrix is the mean of the per-point loss, for soft targets too."""
    generator = torch.Generator().manual_seed(5)
    logits, labels = 4 * torch.randn(4, 200, generator=generator), torch.rand(3, 200, generator=generator).round()
    criterion = SetCriterion(mask_loss=kind)
    expected = torch.stack([criterion._pointwise(logits, t.expand_as(logits)).mean(1) for t in labels], 1)
    torch.testing.assert_close(pairwise_mask_cost(logits, labels, kind), expected, rtol=1e-5, atol=1e-6)
    p = logits.sigmoid()
    dice = torch.stack([1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum() + 1) for t in labels], 1)
    torch.testing.assert_close(pairwise_dice_cost(logits, labels), dice, rtol=1e-5, atol=1e-6)


def test_focal_is_the_usual_formula() -> None:
    criterion = SetCriterion(mask_loss="focal")
    p = torch.tensor([0.9, 0.9, 0.2])
    labels = torch.tensor([1.0, 0.0, 1.0])
    expected = [0.25 * 0.1**2 * -math.log(0.9), 0.75 * 0.9**2 * -math.log(0.1), 0.25 * 0.8**2 * -math.log(0.2)]
    assert criterion._pointwise(p.logit(), labels).tolist() == pytest.approx(expected, rel=1e-4)


def test_more_instances_than_queries() -> None:
    [(query, instance)] = HungarianMatcher(16)(*small_outputs(heads=1)[0], [small_target(9)])
    assert query.tolist() == list(range(6)) and len(set(instance.tolist())) == 6


def test_overflow_reaches_the_loss_instead_of_stopping_the_matcher() -> None:
    [(logits, masks)] = small_outputs(heads=1)
    losses = SetCriterion(num_points=16)([(logits, masks * float("nan"))], [small_target()])
    assert losses["loss_mask"].isnan()


def test_half_precision_outputs_and_autocast_give_float32_losses() -> None:
    outputs = small_outputs(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetCriterion(num_points=32)(outputs, [small_target()], fixed_draws())
    in_float32 = [(logits.float(), masks.float()) for logits, masks in outputs]
    reference = SetCriterion(num_points=32)(in_float32, [small_target()], fixed_draws())
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference[name])


def test_instance_count_is_averaged_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 ranks that hold 12 instances in all, a rank divides its sums by 4."""
    alone = SetCriterion(num_points=16)(small_outputs(), [small_target(2)], fixed_draws())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.fill_(12.0))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    ranked = SetCriterion(num_points=16)(small_outputs(), [small_target(2)], fixed_draws())
    assert ranked["loss_mask"].item() == pytest.approx(alone["loss_mask"].item() / 2, rel=1e-6)
    assert ranked["loss_ce"].item() == pytest.approx(alone["loss_ce"].item(), rel=1e-6)


def test_checkpoint_key_and_bad_arguments() -> None:
    state = SetCriterion().state_dict()
    assert list(state) == ["empty_weight"]
    torch.testing.assert_close(state["empty_weight"], torch.tensor([1.0, 0.1]))
    with pytest.raises(ValueError, match="mask_loss is 'bce' or 'focal'"):
        SetCriterion(mask_loss="l1")
    with pytest.raises(ValueError, match="1 predictions but 2 targets"):
        SetCriterion(num_points=4)(small_outputs(), [small_target(), small_target()])
