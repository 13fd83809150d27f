"""AdamW as published: a smaller rate for the backbone, no weight decay for norms, embeddings and position biases."""

from collections.abc import Iterator

import torch
from torch import nn

from ovavss.models.ov_avss.resnet import FrozenBatchNorm2d

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, part, parameter


def parameter_groups(
    usslm: nn.Module, lr: float, weight_decay: float = 0.05, backbone_factor: float = 0.1
) -> list[dict[str, object]]:
    """Groups for AdamW, one for each pair of learning rate and weight decay.

    `backbone_factor` times `lr` for the modules under `backbone`; no decay for norm layers, `nn.Embedding` and
    `relative_position_bias_table`. Biases, the fusion's gammas and the encoder's bare `level_embed` do decay, as
    published. Each group keeps its `base_lr`, which the schedule scales.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, part, parameter in _parameters(usslm):
        if not parameter.requires_grad:
            continue
        kept = isinstance(part, (*_NORMS, nn.Embedding)) or name.endswith("relative_position_bias_table")
        key = (lr * backbone_factor if name.startswith("backbone.") else lr, 0.0 if kept else weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": group, "lr": rate, "base_lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()
    ]


def build_optimizer(
    usslm: nn.Module, lr: float, weight_decay: float = 0.05, backbone_factor: float = 0.1
) -> torch.optim.AdamW:
    """AdamW with default betas and eps over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(usslm, lr, weight_decay, backbone_factor), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to its base rate (at first its rate) times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
