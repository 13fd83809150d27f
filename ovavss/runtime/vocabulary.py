"""The class names that a model was trained for."""

from ovavss.model.presets import Preset


def default_vocabulary(preset: Preset) -> tuple[str, ...]:
    """The 70 names of AVSBench-OV, or the 36 of Sounding Shapes for the tiny model."""
    if preset.name == "tiny":
        from ovavss.data.sounding_shapes import CATEGORIES

        return CATEGORIES
    from ovavss.data.avsbench_ov import AVSBENCH_OV

    return tuple(AVSBENCH_OV.names)
