"""Small things that every training loop here shares: learning-rate schedules, averaged weights, progress reports."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

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


class Ema:
    """An exponential moving average of a module's floating-point state (parameters and buffers)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present state; faster in the first steps, which are far from the end."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                mine.append(self.state[name])
                theirs.append(tensor.detach())
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(mine, theirs, 1.0 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Put the averaged state into a module."""
        module.load_state_dict(self.state)
