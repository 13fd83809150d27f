"""Frozen batch norm of the ResNet to a trainable one and back, with the same four tensors under the same names.

The published model starts from a pretrained backbone and keeps its batch norm frozen; a backbone that starts from
nothing needs the real one.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ovavss.models.ov_avss.resnet import FrozenBatchNorm2d


def thaw_batch_norm(module: nn.Module) -> None:
    """Replaces every `FrozenBatchNorm2d` inside by `BatchNorm2d` with its values."""
    _swap(module, FrozenBatchNorm2d, nn.BatchNorm2d)


def freeze_batch_norm(module: nn.Module) -> None:
    """Replaces every `BatchNorm2d` inside by `FrozenBatchNorm2d` with its values."""
    _swap(module, nn.BatchNorm2d, FrozenBatchNorm2d)


def without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what only trainable batch norm has."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def _swap(module: nn.Module, old: type[nn.Module], new: type[FrozenBatchNorm2d] | type[nn.BatchNorm2d]) -> None:
    for name, child in module.named_children():
        if isinstance(child, old):
            assert isinstance(child, FrozenBatchNorm2d | nn.BatchNorm2d)
            weight = child.weight
            replacement = new(len(weight), eps=child.eps).to(weight.device)
            replacement.load_state_dict(without_counters(child.state_dict()), strict=False)
            replacement.train(child.training)
            setattr(module, name, replacement)
        else:
            _swap(child, old, new)
