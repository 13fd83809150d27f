"""Refuses what no later step should meet, and brings the sound to 16 kHz and T seconds."""

from typing import Any

import torch
from torch import Tensor

from ovavss.serving.request import check_clip, clip_waveform, read_parameters, read_vocabulary
from ovavss.serving.step import Step


class TritonPythonModel(Step):
    """See config.pbtxt for the tensors."""

    inputs_are_computed = False

    def run(self, request: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        frames, waveform = (inputs[name].numpy(force=True) for name in ("frames", "waveform"))
        rate, snippets = int(inputs["sample_rate"]), self.preset.snippets
        check_clip(frames, waveform, rate, snippets)
        read_parameters(request.parameters())
        if "names" in inputs:
            read_vocabulary(inputs["names"].numpy(force=True))
        size = torch.tensor(frames.shape[1:3])
        sound = torch.from_numpy(clip_waveform(waveform, rate, snippets))[None]
        return {"clip_waveform": sound, "frame_size": size}, f"{size[1]} x {size[0]} pixels, {rate} Hz"
