"""The sizes of OpenAVS' presets and the names of their graphs. Importing it loads nothing heavy."""

from dataclasses import dataclass

LISTENER, DETECTOR, CLASS_MAPS = "listener", "detector", "class_maps"
MASK_IMAGE_ENCODER, PROMPT_DECODER = "mask_image_encoder", "prompt_decoder"
GRAPHS = (LISTENER, DETECTOR, CLASS_MAPS, MASK_IMAGE_ENCODER, PROMPT_DECODER)


@dataclass(frozen=True)
class OpenAvsPreset:
    """The sizes of one combination of parts.

    `snippets`: seconds of a window. `class_map_sizes`: (height, width) of the picture for the two class maps.
    `mask_side`: the longer side, in pixels, of the part of the picture that the masker sees. `short_side`: of the
    frames that it is measured with.
    """

    name: str
    snippets: int = 5
    class_map_sizes: tuple[tuple[int, int], tuple[int, int]] = ((480, 640), (720, 960))
    mask_side: int = 512
    short_side: int = 360


OPEN_AVS = OpenAvsPreset("open_avs")
