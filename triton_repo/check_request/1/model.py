"""Refuses what no later step should meet, and brings the sound to 16 kHz and T seconds."""

from typing import Any

import torch
from torch import Tensor

from ovavss.serving.request import check_frames, clip_waveform, read_parameters, read_vocabulary
from ovavss.serving.step import Step


class TritonPythonModel(Step):
    """See config.pbtxt for the tensors."""

    def run(self, request: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        frames, rate = inputs["frames"], int(inputs["sample_rate"])
        check_frames(frames.shape)
        read_parameters(request.parameters())
        if "names" in inputs:
            read_vocabulary(inputs["names"].numpy(force=True))
        waveform = clip_waveform(inputs["waveform"].numpy(force=True), rate, self.preset.snippets)
        size = torch.tensor(frames.shape[1:3])
        note = f"{size[1]} x {size[0]} pixels, {rate} Hz"
        return {"clip_waveform": torch.from_numpy(waveform)[None], "frame_size": size}, note
