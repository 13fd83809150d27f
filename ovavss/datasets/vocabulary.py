"""The class names that a model was trained for."""

from ovavss.models.ov_avss.presets import Preset


def default_vocabulary(preset: Preset) -> tuple[str, ...]:
    """The 70 names of AVSBench-OV or the 36 of Sounding Shapes, as the preset says."""
    if preset.vocabulary == "sounding_shapes":
        from ovavss.datasets.sounding_shapes.scenes import CATEGORIES

        return CATEGORIES
    from ovavss.datasets.avsbench_ov import AVSBENCH_OV

    return tuple(AVSBENCH_OV.names)
