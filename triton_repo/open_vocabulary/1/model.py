"""Names the regions and draws the label map. Text embeddings of the latest vocabularies are kept."""

from collections import OrderedDict
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch import Tensor

from ovavss.datasets.vocabulary import default_vocabulary
from ovavss.models.ov_avss.presets import CLIP_TEXT_ENCODER
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import classify
from ovavss.serving.graph_step import dlpack
from ovavss.serving.masks import pack
from ovavss.serving.request import names_to_bytes, read_parameters, read_vocabulary
from ovavss.serving.step import Step, check_finite

KEPT_VOCABULARIES = 32  # of at most 2 000 names each


class TritonPythonModel(Step):
    """See config.pbtxt for the tensors."""

    def start(self) -> None:
        """The cache and its metrics."""
        self.default = default_vocabulary(self.preset)
        self.cache: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        looked_up = pb_utils.MetricFamily("ovavss_vocabularies", "Vocabularies asked for, by cache result", counter)
        self.hits, self.misses = (looked_up.Metric(labels={"cache": result}) for result in ("hit", "miss"))
        kept = pb_utils.MetricFamily("ovavss_vocabularies_kept", "Vocabularies with embeddings in memory", gauge)
        self.kept = kept.Metric(labels={})
        self.families = (looked_up, kept)

    def run(self, request: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        options, mask_format = read_parameters(request.parameters())
        names = tuple(read_vocabulary(inputs["names"].numpy(force=True))) if "names" in inputs else self.default
        hit = names in self.cache
        query, crop_index = inputs["regions"].unbind(1)
        seen = int(crop_index.max()) + 1 if len(crop_index) else 0
        embeddings = inputs["image_embeddings"]
        vocabulary = self._vocabulary(names, request.request_id()).to(embeddings.device)
        sizes = (_pair(inputs["image_size"]), _pair(inputs["frame_size"]))
        logits = inputs["mask_logits"].to(embeddings.device)
        crop_index, query = crop_index.to(embeddings.device), query.to(embeddings.device)
        ranking, masks, label_map = classify(embeddings[crop_index], query, vocabulary, logits, *sizes, options)
        found = names_to_bytes([names[label] for label in ranking.label.tolist()])
        outputs = {
            "found_names": torch.from_numpy(found),
            "labels": ranking.label.int(),
            "queries": ranking.query.int(),
            "scores": ranking.score,
            "masks": torch.from_numpy(pack(masks.numpy(force=True), mask_format)),
            "label_map": label_map.to(torch.uint16),
            "crops": torch.tensor([seen], dtype=torch.int32),
        }
        return outputs, f"{seen} crops, {len(names)} names ({'hit' if hit else 'miss'})"

    def _vocabulary(self, names: tuple[str, ...], request_id: str) -> Tensor:
        """Text embeddings [K, D], from the cache or from clip_text_encoder."""
        if names in self.cache:
            self.hits.increment(1)
            self.cache.move_to_end(names)
            return self.cache[names]
        self.misses.increment(1)
        runners: dict[str, Any] = {CLIP_TEXT_ENCODER: lambda tokens: _encode(tokens, request_id)}
        self.cache[names] = Pipeline(self.preset, runners).embed_names(names)
        if len(self.cache) > KEPT_VOCABULARIES:
            self.cache.popitem(last=False)
        self.kept.set(len(self.cache))
        return self.cache[names]


def _encode(tokens: Tensor, request_id: str) -> dict[str, Tensor]:
    request = pb_utils.InferenceRequest(
        model_name=CLIP_TEXT_ENCODER, requested_output_names=["text_embeddings"], request_id=request_id,
        inputs=[dlpack("tokens", tokens)],
    )  # fmt: skip
    response = request.exec()
    if response.has_error():
        raise RuntimeError(response.error().message())
    embeddings = {"text_embeddings": torch.from_dlpack(response.output_tensors()[0]).clone()}
    check_finite(embeddings)
    return embeddings


def _pair(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return height, width
