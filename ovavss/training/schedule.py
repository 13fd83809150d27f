"""What every training loop shares: schedules of the learning rate, averaged weights, one step, progress reports."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ovavss.training.optimizer import set_rate

_Tensors = tuple[Tensor, ...] | list[Tensor]

Report = Callable[[int, Mapping[str, float]], None]
"""Called after each step with its number (from 0) and its figures."""


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear up to 1 over `warmup` steps, then a cosine to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def warm_hold_cosine(step: int, steps: int, warmup: int, hold: float = 0.7) -> float:
    """Factor of the learning rate: linear to 1 over `warmup` steps, 1 for the share `hold` of the run, a cosine to 0.

    Since the first part does not depend on `steps`, a run may still be made longer or shorter while it holds.
    """
    if step < warmup:
        return (step + 1) / warmup
    held = int(hold * steps)
    return 1.0 if step < held else 0.5 * (1.0 + math.cos(math.pi * (step - held) / max(1, steps - held)))


def published_steps(step: int, steps: int, decay: float = 0.1) -> float:
    """Factor of the published schedule: x`decay` after 3/4 of the steps and after 11/12 (72 171, 88 209 of 96 228)."""
    return decay ** ((step >= steps * 3 // 4) + (step >= steps * 11 // 12))


def averaged_model(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a module's parameters and buffers; call `update_parameters` after each step.

    It starts from the module as it is and moves faster in the first steps, which are far from the end.
    """

    def blend(mine: _Tensors, theirs: _Tensors, updates: Tensor | int) -> None:
        if not mine[0].is_floating_point():  # counters; torch calls once for each type
            torch._foreach_copy_(mine, theirs)
            return
        count = int(updates)
        torch._foreach_lerp_(mine, theirs, 1.0 - min(decay, (1 + count) / (10 + count)))

    averaged = AveragedModel(module, multi_avg_fn=blend, use_buffers=True)
    averaged.n_averaged.fill_(1)  # or the first update would be a copy
    return averaged


def descend(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], loss: Tensor, factor: float) -> None:
    """One step down a pretraining loss: `factor` times every group's base rate, the gradient's norm at most 1."""
    set_rate(optimizer, factor)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
