"""The ablations of the paper's Tables 3 to 5 on the synthetic world, every localizer on the same short schedule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ovavss.evaluation.evaluate import Evaluation, evaluate_world
from ovavss.models.ov_avss.graphs import Models
from ovavss.models.ov_avss.presets import AudioPrompt, Crop, Fusion, Preset, Proposals
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import torch_runners
from ovavss.training.recipes.tiny import TinyRecipe
from ovavss.training.recipes.tiny_stages import TinyTraining


@dataclass(frozen=True)
class Variant:
    """One row: the paper's table, what differs from the default, and the settings."""

    table: str
    name: str
    preset: Preset
    options: Options


@dataclass(frozen=True)
class Row:
    """What one variant reached."""

    variant: Variant
    result: Evaluation


def variants(preset: Preset) -> Iterator[Variant]:
    """All rows; the last of each table is the published choice."""
    options = Options(proposals=Proposals.SOUNDING)
    for kind in Fusion:
        fusion = replace(preset.fusion, kind=kind)
        yield Variant("3 fusion", kind.value, replace(preset, fusion=fusion), options)
    for prompt in AudioPrompt:
        decoder = replace(preset.mask_decoder, audio_prompt=prompt)
        yield Variant("4 audio prompt", prompt.value, replace(preset, mask_decoder=decoder), options)
    for crop in Crop:
        yield Variant("5 crop", crop.value, preset, replace(options, crop=crop))
    for proposals in Proposals:
        yield Variant("proposals", proposals.value, preset, replace(options, proposals=proposals))


def run_ablations(
    preset: Preset,
    work: Path,
    iterations: int,
    seed: int,
    clips: int,
    done: Callable[[Row], object],
    recipe: TinyRecipe | None = None,
) -> list[Row]:
    """Trains each variant, unless it is trained already in the work folder, and scores it on one held-out world.

    Each fusion is pretrained for two thirds of `iterations` steps, then each localizer trained for `iterations`.
    `done` hears each row as it comes.
    """
    recipe = recipe or TinyRecipe()
    localizer = replace(recipe.localizer, iterations=iterations)
    short = replace(recipe, fusion_steps=max(1, iterations * 2 // 3), localizer=localizer)
    pipelines: dict[Preset, Pipeline] = {}
    rows = []
    for variant in variants(preset):
        if variant.preset not in pipelines:
            pipelines[variant.preset] = _train(variant.preset, short, work)
        pipeline = pipelines[variant.preset]
        pipeline.options = variant.options
        rows.append(Row(variant, _score(pipeline, seed, clips)))
        done(rows[-1])
    return rows


def _train(preset: Preset, recipe: TinyRecipe, work: Path) -> Pipeline:
    training = TinyTraining(preset, recipe, work)
    folder = f"ablation_{recipe.localizer.iterations}_{preset.fusion.kind}_{preset.mask_decoder.audio_prompt}"
    usslm = training.localizer(folder=folder)
    return Pipeline(preset, torch_runners(Models(preset, training.audio_encoder(), usslm, training.clip())))


def _score(pipeline: Pipeline, seed: int, clips: int) -> Evaluation:
    from ovavss.datasets.sounding_shapes.scenes import CATEGORIES

    vocabulary = pipeline.embed_names(CATEGORIES)
    return evaluate_world(lambda frames, sound: pipeline(frames, sound, vocabulary).label_map.numpy(), seed, clips)
