"""Everything that trains preset `tiny` from nothing on the synthetic world, stage by stage.

A finished stage leaves its weights in the work folder and is not repeated; the localizer continues from its own
checkpoint. Nothing but CLIP sees or hears a novel combination.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ovavss.checkpoints.loader import save_checkpoint
from ovavss.datasets.sounding_shapes.scenes import BASE, CATEGORIES
from ovavss.files import write_torch
from ovavss.models.ov_avss.audio_encoder import AudioEncoder
from ovavss.models.ov_avss.clip import build_clip
from ovavss.models.ov_avss.graphs import UsslmGraph, graph_specs
from ovavss.models.ov_avss.open_vocabulary import LOGIT_SCALE
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, USSLM_GRAPH, Preset
from ovavss.models.ov_avss.resnet import ResNet
from ovavss.models.ov_avss.usslm import USSLM
from ovavss.runtime.torch_runner import TorchRunner
from ovavss.training.batch_norm import freeze_batch_norm, thaw_batch_norm, without_counters
from ovavss.training.recipes.crops import many_crops
from ovavss.training.recipes.pretrain_audio import pretrain_audio_encoder
from ovavss.training.recipes.pretrain_backbone import pretrain_backbone
from ovavss.training.recipes.pretrain_clip import train_clip
from ovavss.training.recipes.pretrain_fusion import Comparison, Rehearsal, pretrain_fusion
from ovavss.training.recipes.sound_bank import SoundBank, sound_bank
from ovavss.training.recipes.tiny import HALFWAY, LATE_SHARE, TinyRecipe
from ovavss.training.recipes.world import RenderedWorld, WorldClips, rendered_world, world_tokens
from ovavss.training.run import run
from ovavss.training.schedule import Report
from ovavss.training.trainer import Trainer

_KNOWN: dict[str, Sequence[int]] = {"all": range(len(CATEGORIES)), "base": BASE}


class TinyTraining:
    """The stages over one work folder.

    Args:
        preset: tiny, or a smaller version of it for tests.
        work: a folder for rendered clips (3 GB with the default sizes) and the weights of finished stages.
        workers: processes that render.
    """

    def __init__(
        self, preset: Preset, recipe: TinyRecipe, work: Path, workers: int = 2, console: Console | None = None
    ) -> None:
        self.preset, self.recipe, self.work, self.workers = preset, recipe, Path(work), workers
        self.console = console or Console(stderr=True)
        self.work.mkdir(parents=True, exist_ok=True)

    def world(self) -> RenderedWorld:
        """The clips that the localizer sees: base categories only."""
        return rendered_world(self.work, self.recipe.seed, self.recipe.world_clips, self.workers)

    def audio_encoder(self) -> AudioEncoder:
        """Trained on sounds of base combinations."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        encoder = AudioEncoder(self.preset.audio, self.preset.snippets)

        def train(report: Report) -> None:
            pretrain_audio_encoder(encoder, recipe.audio_steps, recipe.audio_clips, recipe.seed, report, self.workers)

        self._stage("audio", encoder, recipe.audio_steps, train)
        return encoder.eval()

    def bank(self, encoder: AudioEncoder) -> SoundBank:
        """Base sounds to train against, made once."""
        path = self.work / "bank.pt"
        if not path.exists():
            recipe = self.recipe
            made = sound_bank(encoder.requires_grad_(False), recipe.seed, recipe.bank_mixtures, self.workers)
            write_torch(path, {"tokens": made.tokens, "heard": torch.from_numpy(made.heard)})
        stored = torch.load(path, weights_only=True)
        return SoundBank(stored["tokens"], stored["heard"].numpy())

    def localizer_start(self, world: RenderedWorld, bank: SoundBank) -> tuple[USSLM, Comparison]:
        """The localizer with pretrained backbone, fusion and pixel decoder, and the pretraining's heads.

        They were pretrained on base combinations; the rest is random. The backbone's batch norm is trainable.
        """
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        usslm = USSLM(self.preset)
        assert isinstance(usslm.backbone, ResNet)
        backbone = usslm.backbone

        def train_backbone(report: Report) -> None:
            pretrain_backbone(backbone, self.preset, world, recipe.backbone_steps, recipe.seed, report)

        def train_fusion(report: Report) -> None:
            pretrain_fusion(comparison, world, bank, recipe.fusion_steps, recipe.seed, report)

        self._stage("backbone", backbone, recipe.backbone_steps, train_backbone)
        thaw_batch_norm(backbone)
        comparison = Comparison(usslm, self.preset.hidden_dim)
        self._stage(
            f"fusion_{self.preset.fusion.kind}_{recipe.fusion_steps}", comparison, recipe.fusion_steps, train_fusion
        )
        return usslm, comparison

    def tokens(self, encoder: AudioEncoder) -> Tensor:
        """The tokens of the localizer's clips."""
        path = self.work / "tokens.pt"
        if not path.exists():
            recipe = self.recipe
            write_torch(path, world_tokens(encoder, recipe.seed, recipe.world_clips, self.workers))
        return torch.load(path, weights_only=True)

    def localizer(self, checkpoint_every: int = 250, folder: str = "localizer") -> USSLM:
        """The trained localizer, its batch norm frozen; its checkpoint and log are in `folder` of the work folder."""
        world, encoder = self.world(), self.audio_encoder()
        bank = self.bank(encoder)
        usslm, comparison = self.localizer_start(world, bank)
        clips = WorldClips(world, self.tokens(encoder), bank=bank, contrast=self.recipe.contrast)
        trainer = Trainer(usslm, self.recipe.localizer, rehearsal=Rehearsal(comparison, world, bank))
        place, last = self.work / folder, self.recipe.localizer.iterations
        earlier = place / "halfway.pt"
        for stop in (max(1, round(HALFWAY * last)), last):
            run(trainer, clips, place, checkpoint_every=checkpoint_every, log_every=50, stop_after=stop,
                console=self.console)  # fmt: skip
            if not earlier.exists():
                write_torch(earlier, trainer.averaged())
        before, after = (without_counters(x) for x in (torch.load(earlier, weights_only=True), trainer.averaged()))
        finished = USSLM(self.preset)
        finished.load_state_dict({name: torch.lerp(before[name], after[name], LATE_SHARE) for name in after})
        freeze_batch_norm(finished)
        return finished.eval()

    def clip(self, names: Literal["all", "base"] = "all") -> nn.Module:
        """CLIP trained on all 36 names, or (`names="base"`) on the 24 base ones for the figure beside it."""
        recipe, config = self.recipe, self.preset.clip
        torch.manual_seed(recipe.seed)
        model = build_clip(config)

        def train(report: Report) -> None:
            train_clip(model, config, [self._rough_crops], recipe.clip_steps, recipe.seed, report, _KNOWN[names])

        self._stage(f"clip_{names}", model, recipe.clip_steps, train)
        return model.eval()

    def adapted_clip(self, usslm: USSLM, names: Literal["all", "base"] = "all") -> nn.Module:
        """`clip`, trained on with what the finished localizer cuts out in half of every batch."""
        recipe, config = self.recipe, self.preset.clip
        model = self.clip(names)

        def train(report: Report) -> None:
            localizer = UsslmGraph(usslm, self.preset).eval().requires_grad_(False)
            encoder = self.audio_encoder().requires_grad_(False)
            specs = graph_specs(self.preset)
            modules = {AUDIO_ENCODER: encoder, USSLM_GRAPH: localizer}
            runners = {name: TorchRunner(specs[name], module) for name, module in modules.items()}
            cut = many_crops(recipe.crop_seed, recipe.adapt_clips, config.image_size, self.workers, runners)
            train_clip(
                model, config, [self._rough_crops, cut], recipe.adapt_steps, recipe.seed, report, _KNOWN[names],
                scale=LOGIT_SCALE,
            )  # fmt: skip

        self._stage(f"adapted_clip_{names}", model, recipe.adapt_steps, train)
        return model.eval()

    @cached_property
    def _rough_crops(self) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        return many_crops(recipe.crop_seed, recipe.crop_clips, self.preset.clip.image_size, self.workers)

    def _stage(self, name: str, module: nn.Module, steps: int, train: Callable[[Report], None]) -> None:
        """Loads what an earlier run finished, else trains with a progress bar and keeps the result."""
        path = self.work / f"{name}.pt"
        if not path.exists():
            columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
                       TimeRemainingColumn())  # fmt: skip
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task("", total=steps)

                def report(step: int, figures: object) -> None:
                    assert isinstance(figures, dict)
                    shown = "  ".join(f"{k} {v:.3f}" for k, v in figures.items())
                    progress.update(task, completed=step + 1, description=shown)

                train(report)
            write_torch(path, module.state_dict())
        module.load_state_dict(torch.load(path, weights_only=True))


def write_weights(path: Path, encoder: nn.Module, usslm: nn.Module, clip: nn.Module, preset: Preset) -> None:
    """The three parts in one safetensors file, stored as float16 (the loader casts back).

    Raises:
        UserError: the file cannot be written.
    """
    modules = {"audio_encoder": encoder, "usslm": usslm, "clip": clip}
    save_checkpoint(path, {name: deepcopy(module).half() for name, module in modules.items()}, preset.name)
