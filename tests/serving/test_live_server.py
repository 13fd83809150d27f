"""The ensemble on the real server against the pipeline in this process."""

import json
import os
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from live_server import Live
from typer.testing import CliRunner

from ovavss.checkpoints.weights import WeightsSource, load_models
from ovavss.commands.app import app
from ovavss.datasets.sounding_shapes.rendering import render
from ovavss.datasets.sounding_shapes.scenes import sample_scene
from ovavss.datasets.vocabulary import default_vocabulary
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, Prediction, evaluate, world_clips
from ovavss.models.ov_avss.presets import PRESETS, Crop, Proposals
from ovavss.pipeline.pipeline import Pipeline, Segmentation
from ovavss.pipeline.steps import Options
from ovavss.runtime.engines import torch_runners
from ovavss.serving.client import RemotePipeline
from ovavss.serving.request import MaskFormat, names_from_bytes

pytestmark = pytest.mark.server
HELD_OUT, SEED = 200, 1000
NAMES = default_vocabulary(PRESETS["tiny"])


def same(one: Segmentation, other: Segmentation) -> bool:
    return (
        torch.equal(one.label_map, other.label_map)
        and torch.equal(one.masks, other.masks)
        and torch.equal(one.ranking.query, other.ranking.query)
        and torch.equal(one.ranking.label, other.ranking.label)
        and one.crops == other.crops
        # The dynamic batcher may bring several clips together, and a product's last bit depends on the batch.
        and torch.allclose(one.ranking.score, other.ranking.score, rtol=0, atol=1e-5)
    )


def test_the_localizer_goes_first(server: Live) -> None:
    """On a CPU the other steps' processes have a lower priority."""
    steps = {step: os.getpriority(os.PRIO_PROCESS, pid) for step, pid in server.steps().items()}
    localizer = steps.pop("usslm")
    assert len(steps) == 6 and set(steps.values()) == {localizer + 5}


def test_all_held_out_clips(server: Live, local: Pipeline) -> None:
    """Bit-equal label maps, the same names and scores, and PyTorch's mIoU."""
    clips = list(world_clips(SEED, HELD_OUT))
    vocabulary = local.embed_names(NAMES)
    here = [local(clip.frames, clip.waveform, vocabulary) for clip in clips]
    with RemotePipeline(server.url) as remote:
        there = list(remote.stream(((clip.frames, clip.waveform) for clip in clips), NAMES))
        assert remote.shared
    assert len(there) == len(clips) and all(same(a, b) for a, b in zip(here, there))
    assert sum(len(found.label_map.unique()) > 1 for found in there) > HELD_OUT // 2

    def miou(found: list[Segmentation]) -> float:
        by_name = {clip.name: one for clip, one in zip(clips, found)}

        def run(clip: EvaluationClip) -> Prediction:
            return Prediction(by_name[clip.name].label_map.numpy())

        return evaluate(run, clips, WORLD).scores.mean

    models = load_models(PRESETS["tiny"], WeightsSource([], None, False, 0)).models
    pytorch = Pipeline(models.preset, torch_runners(models))
    reference = miou([pytorch(clip.frames, clip.waveform, vocabulary) for clip in clips])
    assert miou(there) == miou(here) == pytest.approx(reference, abs=5e-5)
    assert reference > 0.3


@pytest.mark.parametrize(
    "options",
    [
        Options(Proposals.SOUNDING, 0.4, 0.6, top_k=3),
        Options(crop=Crop.CROP_RESIZE, square_anchor="center"),
        Options(crop=Crop.NONE, frames_per_query=1, merge_iou=0.5, named_only=True),
        Options(Proposals.SOUNDING, sound_threshold=1.0),
    ],
    ids=["sounding", "crop", "fewer crops", "none"],
)
def test_options_names_and_masks(server: Live, local: Pipeline, options: Options) -> None:
    clip, names = next(iter(world_clips(SEED, 1))), ["Flügel", *NAMES[::3]]
    pipeline = Pipeline(local.preset, local.runners, options)
    here = pipeline(clip.frames, clip.waveform, pipeline.embed_names(names))
    for masks, shared in ((MaskFormat.BITS, True), (MaskFormat.RLE, False)):
        with RemotePipeline(server.url, options, masks=masks, shared=shared) as remote:
            assert same(here, remote(clip.frames, clip.waveform, names)) and remote.shared is shared
    assert bool(here.crops) == (options.sound_threshold < 1)


def film(path: Path, scenes: int) -> Path:
    """Scenes one after another in one MP4."""
    clips = [render(sample_scene(SEED, index), (120, 164)) for index in range(10, 10 + scenes)]
    waveform = np.concatenate([clip.waveform for clip in clips])[None]
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=2), out.add_stream("aac", rate=16_000, layout="mono")
        video.height, video.width, video.pix_fmt = 120, 164, "yuv444p"
        for frame in np.concatenate([clip.frames for clip in clips]).repeat(2, axis=0):
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), format="fltp", layout="mono")
        sound.sample_rate = 16_000
        out.mux(audio.encode(sound))
        out.mux(audio.encode())
    return path


def test_a_film_through_the_command(server: Live, tmp_path: Path) -> None:
    """A real MP4 of three windows, at a size that is not the network's."""
    video = film(tmp_path / "film.mp4", 3)
    results = []
    for name, where in (("here", ["--engines", str(server.engines)]), ("there", ["--url", server.url])):
        done = CliRunner().invoke(app, ["segment", str(video), "--out", str(tmp_path / name), *where])
        assert done.exit_code == 0, done.output
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert results[0]["frames"] == results[1]["frames"] and results[0]["classes"] == results[1]["classes"]
    assert results[1]["settings"]["runner"] == "triton"
    assert [frame["window"] for frame in results[1]["frames"]] == [i // 5 for i in range(15)]
    for path in (tmp_path / "here" / "label_maps").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / "label_maps" / path.name).read_bytes()


def test_the_default_vocabulary_and_another_rate(server: Live, local: Pipeline) -> None:
    """A plain tritonclient that sends no names, and sound of two seconds at 8 kHz."""
    clip = next(iter(world_clips(SEED, 1)))
    inputs = [triton.InferInput("frames", clip.frames.shape, "UINT8"), triton.InferInput("waveform", [16_000], "FP32"),
              triton.InferInput("sample_rate", [1], "INT32")]  # fmt: skip
    inputs[0].set_data_from_numpy(clip.frames)
    inputs[1].set_data_from_numpy(np.zeros(16_000, np.float32))
    inputs[2].set_data_from_numpy(np.array([8_000], np.int32))
    with triton.InferenceServerClient(server.url.removeprefix("grpc://")) as client:
        result = client.infer("ov_avss", inputs)
    here = local(clip.frames, np.zeros(80_000, np.float32), local.embed_names(NAMES))
    assert names_from_bytes(result.as_numpy("found_names")) == [NAMES[i] for i in here.ranking.label.tolist()]
    assert (result.as_numpy("label_map") == here.label_map.numpy()).all()


def test_more_crops_than_clips_batch(server: Live, local: Pipeline) -> None:
    crops = np.random.default_rng(0).standard_normal((100, 3, 32, 32)).astype(np.float32)
    given = triton.InferInput("crops", crops.shape, "FP32")
    given.set_data_from_numpy(crops)
    with triton.InferenceServerClient(server.url.removeprefix("grpc://")) as client:
        there = client.infer("clip_image_encoder", [given]).as_numpy("image_embeddings")
    assert len(crops) > local.options.clip_batch
    here = local.runners["clip_image_encoder"](crops=torch.from_numpy(crops))["image_embeddings"]
    assert np.abs(there - here.numpy()).max() < 1e-5


def metrics(server: Live) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.ports[2]}/metrics").read().decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_metrics_cache_and_request_ids(server: Live) -> None:
    clip, before = next(iter(world_clips(SEED, 1))), metrics(server)
    hit, miss = ('ovavss_vocabularies{cache="%s"}' % result for result in ("hit", "miss"))  # noqa: UP031
    crops = 0
    with RemotePipeline(server.url) as remote:
        for vocabulary in range(40):
            for _ in range(1 + (vocabulary == 39)):
                crops += remote(clip.frames, clip.waveform, [f"thing {vocabulary}"]).crops
    after = metrics(server)
    assert after[miss] - before[miss] == 40 and after[hit] - before[hit] == 1
    assert after["ovavss_vocabularies_kept"] == 32
    assert after["ovavss_crops"] - before["ovavss_crops"] == crops > 0
    seconds = 'nv_inference_compute_infer_duration_us{model="usslm",version="1"}'
    assert after[seconds] > before[seconds]
    for step in ("check_request", "audio_encoder", "usslm", "mask_crop", "clip_image_encoder", "open_vocabulary"):
        assert any(f"'{remote.session}-7'" in line and f" {step}: " in line for line in server.log().splitlines())
