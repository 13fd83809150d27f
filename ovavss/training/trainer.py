"""The training loop of the localizer (USSLM) with the published criterion; audio encoder and CLIP stay frozen."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovavss.errors import UserError
from ovavss.files import write_torch
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.training.clips import Batch, Clips, clip_numbers
from ovavss.training.criterion import SetCriterion
from ovavss.training.matcher import MaskLoss, Rand
from ovavss.training.optimizer import build_optimizer, set_rate
from ovavss.training.schedule import averaged_model, published_steps, warm_hold_cosine

# From an iteration and its generator to a loss, or none.
Rehearse = Callable[[int, np.random.Generator], Tensor | None]

# What may change when a run is resumed: its end, as long as that does not lie in the past.
_EXTENDABLE = ("iterations", "hold")


@dataclass(frozen=True)
class Recipe:
    """How the localizer is trained; the defaults are the published code's.

    iterations: of the whole schedule. batch: clips in one iteration over all processes. schedule: "steps" (x0.1 after
    3/4 and 11/12) or "cosine" (up over `warmup` iterations, held for the share `hold` of all, then down to 0).
    no_object_weight: class weight of "not sounding". batch_norm: "frozen" (a pretrained backbone) or "trained" (from
    nothing). ema: decay of the averaged weights, 0 for none. amp: half precision on CUDA (published: none).
    """

    iterations: int = 96_228
    batch: int = 1
    lr: float = 1e-4
    backbone_factor: float = 0.1
    weight_decay: float = 0.05
    max_grad_norm: float = 0.01
    schedule: Literal["steps", "cosine"] = "steps"
    warmup: int = 0
    hold: float = 0.7
    num_points: int = 12_544
    oversample: float = 3.0
    no_object_weight: float = 0.1
    mask_loss: MaskLoss = "bce"
    batch_norm: Literal["frozen", "trained"] = "frozen"
    ema: float = 0.0
    amp: bool = False
    seed: int = 42

    def rate(self, iteration: int) -> float:
        """Factor of the learning rate at an iteration (from 0)."""
        if self.schedule == "cosine":
            return warm_hold_cosine(iteration, self.iterations, self.warmup, self.hold)
        return published_steps(iteration, self.iterations)


def keep_float32(module: nn.Module, device: torch.device) -> None:
    """Makes a module compute in float32 inside autocast."""
    forward = module.forward

    def in_float32(*args: object) -> object:
        with torch.autocast(device.type, enabled=False):
            return forward(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args))

    module.forward = in_float32


class Trainer:
    """One run. All that is random in an iteration follows from (seed, iteration, rank): a resumed run is the same run.

    With `torch.distributed` initialized, every process takes its share of each iteration's clips.
    """

    def __init__(
        self, usslm: USSLM, recipe: Recipe, device: torch.device | None = None, rehearsal: Rehearse | None = None
    ) -> None:
        self.recipe, self.device = recipe, device or torch.device("cpu")
        self.rehearsal = rehearsal  # a loss beside the criterion's
        self.usslm = usslm.to(self.device).train()
        self.distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.distributed else 0
        self.world_size = dist.get_world_size() if self.distributed else 1
        if recipe.batch % self.world_size:
            raise UserError(f"{self.world_size} processes cannot share a batch of {recipe.batch}; change --batch")
        self.criterion = SetCriterion(
            recipe.num_points, recipe.oversample, no_object_weight=recipe.no_object_weight, mask_loss=recipe.mask_loss
        ).to(self.device)
        self.optimizer = build_optimizer(self.usslm, recipe.lr, recipe.weight_decay, recipe.backbone_factor)
        self.amp = recipe.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp)
        self.ema = averaged_model(self.usslm, recipe.ema) if recipe.ema else None
        self.rand: Rand | None = None  # source of the criterion's random points, default torch's
        self.iteration = 0
        if self.amp:
            # Published in float32: its logits are clamped at 50000, close to the largest half.
            keep_float32(self.usslm.pixel_decoder.early_fusion, self.device)
        self.network: nn.Module = self.usslm
        if self.distributed:
            ids = [self.device.index] if self.device.type == "cuda" else None
            # The projection of the last layer's audio reaches no loss in some ablations.
            self.network = DistributedDataParallel(self.usslm, ids, find_unused_parameters=True)

    def load(self, clips: Clips, iteration: int) -> Batch:
        """This process's share of an iteration's clips (from 0)."""
        recipe = self.recipe
        numbers = clip_numbers(len(clips), recipe.batch, iteration, recipe.seed)[self.rank :: self.world_size]
        return clips.batch(numbers, np.random.default_rng([recipe.seed, iteration, self.rank]))

    def step(self, batch: Batch) -> dict[str, float]:
        """One iteration; returns the losses of the last head, the weighted total and the gradient's norm."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + self.iteration * 1_009 + self.rank)
        set_rate(self.optimizer, recipe.rate(self.iteration))
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.amp):
            predictions = self.network(batch.images, batch.audio)
        # The criterion wants the output first, then the earlier heads.
        heads = [(p.sound_logits, p.mask_logits) for p in (predictions[-1], *predictions[:-1])]
        losses = self.criterion(heads, batch.targets, self.rand)
        total = self.criterion.total(losses)
        if self.rehearsal is not None:
            extra = self.rehearsal(self.iteration, np.random.default_rng([recipe.seed, self.iteration, self.rank, 1]))
            total = total if extra is None else total + extra
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.usslm.parameters(), recipe.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.usslm)
        self.iteration += 1
        if not torch.isfinite(total) and not self.amp:
            raise UserError(f"the loss is not finite at iteration {self.iteration}; lower --lr or look at the data")
        shown = {name: losses[name].item() for name in ("loss_ce", "loss_mask", "loss_dice")}
        return {"loss": total.item(), **shown, "gradient": norm.item(), "lr": self.optimizer.param_groups[0]["lr"]}

    def averaged(self) -> dict[str, Tensor]:
        """The weights to ship: the average if there is one, else the present ones."""
        return (self.usslm if self.ema is None else self.ema.module).state_dict()

    def save(self, path: Path) -> None:
        """Everything that a resumed run needs; the file appears under its name only when complete."""
        state = {
            "recipe": asdict(self.recipe),
            "iteration": self.iteration,
            "model": self.usslm.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        write_torch(path, state)

    def resume(self, path: Path) -> None:
        """Continue from a file that `save` wrote.

        Raises:
            UserError: the file does not fit this run.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError):
            raise UserError(f"{path} is damaged: remove it to start the run again") from None
        theirs, ours = (
            {k: v for k, v in r.items() if k not in _EXTENDABLE} for r in (state["recipe"], asdict(self.recipe))
        )
        if theirs != ours:
            changed = ", ".join(f"{k} = {theirs.get(k)}" for k in ours if theirs.get(k) != ours[k])
            raise UserError(f"{path} is of a run with {changed}: give the options of that run, or another folder")
        try:
            self.usslm.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError):
            raise UserError(f"{path} is of another model: give the preset of that run, or another folder") from None
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        self.iteration = state["iteration"]
