"""Chooses the (query, frame) pairs to classify and cuts out what CLIP sees of them."""

from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor

from ovavss.pipeline.steps import Localization, crop_regions, select_regions
from ovavss.serving.request import read_parameters
from ovavss.serving.step import Step


class TritonPythonModel(Step):
    """See config.pbtxt for the tensors. Works where the masks are, on the GPU or not."""

    def start(self) -> None:
        """Our metrics, beside Triton's own on its metrics port."""
        counter = pb_utils.MetricFamily.COUNTER
        self.family = pb_utils.MetricFamily("ovavss_crops", "Crops that CLIP was shown", counter)
        self.crops = self.family.Metric(labels={})

    def run(self, request: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        options, _ = read_parameters(request.parameters())
        logits = inputs["mask_logits"]
        scores, frames = (inputs[name].to(logits.device) for name in ("sound_scores", "resized_frames"))
        height, width = inputs["image_size"].tolist()
        found = Localization(logits, scores[0], frames, (height, width))
        selection = select_regions(logits, scores[0], options)
        side = self.preset.clip.image_size
        crops = [
            crop_regions(found, selection.crops.select(slice(i, i + options.clip_batch)), side, options)
            for i in range(0, len(selection.crops), options.clip_batch)
        ]
        # Triton refuses a batch of none; open_vocabulary drops the black one.
        joined = torch.cat(crops) if crops else logits.new_zeros(1, 3, side, side)
        self.crops.increment(len(selection.crops))
        regions = torch.stack([selection.regions.query, selection.crop_index], dim=1)
        return {"crops": joined, "regions": regions}, f"{len(selection.crops)} crops"
