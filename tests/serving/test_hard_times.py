"""Load, killed steps, restarts, servers that are away or slow."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from live_server import Live, free_ports, wait_until
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from ovavss.commands.app import app
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import world_clips
from ovavss.pipeline.pipeline import Pipeline
from ovavss.serving.client import RemotePipeline, parse_url
from ovavss.serving.repository import write_repository
from ovavss.serving.server import Server

SEED, NAMES = 1000, ["red square", "green star", "blue disc"]


def clip_inputs(frames: np.ndarray) -> list[triton.InferInput]:
    arrays = (("frames", frames, "UINT8"), ("waveform", np.zeros(80_000, np.float32), "FP32"),
              ("sample_rate", np.array([16_000], np.int32), "INT32"))  # fmt: skip
    inputs = [triton.InferInput(name, array.shape, kind) for name, array, kind in arrays]
    for given, (_, array, _) in zip(inputs, arrays):
        given.set_data_from_numpy(array)
    return inputs


@pytest.mark.server
def test_eight_clients(server: Live, local: Pipeline) -> None:
    """No wrong answer, and no memory that keeps growing (bench/serving.py does this for minutes)."""
    clips, vocabulary = list(world_clips(SEED, 8)), local.embed_names(NAMES)
    here = [local(clip.frames, clip.waveform, vocabulary) for clip in clips]

    def client(number: int, rounds: int) -> None:
        with RemotePipeline(server.url, in_flight=1, shared=number % 2 == 0) as remote:
            for turn in range(rounds):
                which = (number + turn) % len(clips)
                there = remote(clips[which].frames, clips[which].waveform, NAMES)
                assert torch.equal(there.label_map, here[which].label_map)
                assert torch.equal(there.masks, here[which].masks)

    def load(rounds: int) -> int:
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(client, range(8), [rounds] * 8))
        return server.memory()

    before = load(12)
    assert load(12) - before < 64 << 20


@pytest.mark.server
@pytest.mark.parametrize("model", ["usslm", "mask_crop"])
def test_a_killed_step(server: Live, model: str) -> None:
    """Killed by its process id in the middle of a request: that request fails clearly, the next one succeeds."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 1080, 1920, 3), np.uint8)
    with triton.InferenceServerClient(server.url.removeprefix("grpc://")) as client, ThreadPoolExecutor(1) as other:
        client.infer("ov_avss", clip_inputs(frames))
        old = server.steps()[model]
        os.kill(old, signal.SIGSTOP)  # it will not answer before it dies
        asked = other.submit(client.infer, "ov_avss", clip_inputs(frames), client_timeout=60)
        time.sleep(1)
        assert not asked.done()
        os.kill(old, signal.SIGKILL)
        with pytest.raises(InferenceServerException, match=r"is not healthy|failed"):
            asked.result()
    with RemotePipeline(server.url) as remote:
        remote(frames, np.zeros(80_000, np.float32), NAMES)
    assert server.steps()[model] != old
    wait_until(lambda: any(f"the process of {model} died" in line for line in server.told))


@pytest.mark.server
def test_a_restart_in_the_middle_of_a_stream(server: Live, local: Pipeline) -> None:
    """The client finishes with nothing lost or doubled."""
    clips, vocabulary = list(world_clips(SEED, 12)), local.embed_names(NAMES)
    here = [local(clip.frames, clip.waveform, vocabulary).label_map for clip in clips]
    there = []
    with RemotePipeline(server.url, deadline=300) as remote:
        for found in remote.stream(((clip.frames, clip.waveform) for clip in clips), NAMES):
            there.append(found.label_map)
            if len(there) == 3:
                server.stop()
                server.start()
    assert len(there) == len(here) and all(map(torch.equal, here, there))


NAN_GRAPH = """
import torch, triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(torch.from_dlpack(pb.get_input_tensor_by_name(r, "crops"))) for r in requests]

    def answer(self, crops):
        embeddings = torch.full((len(crops), 64), torch.nan)
        return pb.InferenceResponse([pb.Tensor.from_dlpack("image_embeddings", embeddings)])
"""


@pytest.mark.server
@pytest.mark.usefixtures("server")  # skips where there is no Triton
def test_a_graph_whose_numbers_are_damaged(tiny_engines: Path, tmp_path: Path) -> None:
    """A graph in another back end than our own runner: NaN is an error, never "nothing sounds"."""
    repository, ports = tmp_path / "repository", free_ports(3)
    write_repository(tiny_engines, repository)
    (repository / "clip_image_encoder" / "1" / "model.py").write_text(NAN_GRAPH)
    clip = next(iter(world_clips(SEED, 1)))
    with Server(repository, tmp_path, "127.0.0.1", *ports) as server:
        server.wait_ready()
        with (
            RemotePipeline(f"grpc://127.0.0.1:{ports[1]}") as remote,
            pytest.raises(UserError, match=r"'image_embeddings' holds NaN or infinite values.*--precision fp32"),
        ):
            remote(clip.frames, clip.waveform, NAMES)


@pytest.mark.server
def test_a_killed_server_leaves_no_memory_for_good(server: Live) -> None:
    """The next server removes what a killed one left."""
    abandoned = Path("/dev/shm/ovavss-server-000000000000-alive")
    for path in (abandoned, abandoned.with_name("ovavss-server-000000000000-7")):
        path.touch()
    server.stop()
    server.start()
    assert not list(abandoned.parent.glob("ovavss-server-000000000000-*"))
    assert list(abandoned.parent.glob(server.shared_memory()))


@pytest.mark.server
def test_a_deadline(server: Live) -> None:
    frames = np.zeros((5, 1080, 1920, 3), np.uint8)
    with (
        RemotePipeline(server.url, deadline=0.05) as remote,
        pytest.raises(UserError, match=r"within 0\.05 s; give it"),
    ):
        remote(frames, np.zeros(80_000, np.float32), NAMES)


def test_a_server_that_is_away(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=r"cannot be reached .*; is the server running\?"):
        RemotePipeline(f"grpc://127.0.0.1:{port}", deadline=1)


def test_a_server_that_never_answers() -> None:
    told = pytest.raises(UserError, match=r"did not answer within 1 s|cannot be reached")
    with socket.create_server(("127.0.0.1", 0)) as silent, told:
        RemotePipeline(f"grpc://127.0.0.1:{silent.getsockname()[1]}", deadline=1)


def test_addresses() -> None:
    assert parse_url("grpc://localhost") == ("localhost:8001", True)
    assert parse_url("grpc://[::1]:9000") == ("[::1]:9000", True)
    assert parse_url("grpc://10.0.0.7:9000") == ("10.0.0.7:9000", False)
    for bad in ("http://localhost:8000", "localhost:8001", "grpc://:8001", "grpc://host:port", "grpc://host/model"):
        with pytest.raises(UserError, match=r"is no server; give grpc://HOST:PORT"):
            parse_url(bad)


def test_serve_tells_what_is_wrong(tiny_engines: Path, tmp_path: Path) -> None:
    def refused(engines: Path, *more: str) -> str:
        result = CliRunner().invoke(app, ["serve", "--engines", str(engines), "--work", str(tmp_path / "work"), *more])
        assert result.exit_code == 2 and "Traceback" not in result.output
        return result.stderr

    assert "there is no engines folder" in refused(tmp_path / "none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 cannot be used" in refused(tiny_engines, "--port", port)
    assert "lacks the graph" in refused(tiny_engines, "--format", "tensorrt")
