"""Each kind of bad request gets a clear answer, and the server goes on."""

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from live_server import Live
from tritonclient.utils import InferenceServerException

from ovavss.errors import UserError
from ovavss.serving.client import RemotePipeline

pytestmark = pytest.mark.server
TYPES = {"uint8": "UINT8", "float32": "FP32", "float64": "FP64", "int32": "INT32"}
FRAMES = np.zeros((5, 64, 64, 3), np.uint8)


def good() -> dict[str, np.ndarray]:
    return {"frames": FRAMES, "waveform": np.zeros(80_000, np.float32), "sample_rate": np.array([16_000], np.int32)}


@pytest.fixture
def client(server: Live) -> Iterator[triton.InferenceServerClient]:
    """A client; afterwards the server still answers, with the same processes."""
    before = server.steps()
    with triton.InferenceServerClient(server.url.removeprefix("grpc://")) as client:
        yield client
        ask(client, **good())
    assert server.steps() == before


def ask(client: triton.InferenceServerClient, parameters: dict[str, Any] | None = None, **arrays: np.ndarray) -> Any:
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, array.shape, TYPES[str(array.dtype)]))
        inputs[-1].set_data_from_numpy(array)
    return client.infer("ov_avss", inputs, parameters=parameters, client_timeout=120)


def changed(**arrays: Any) -> dict[str, np.ndarray]:
    return {name: array for name, array in (good() | arrays).items() if array is not None}


def text(content: str | bytes) -> np.ndarray:
    return np.frombuffer(content if isinstance(content, bytes) else content.encode(), np.uint8)


LONG_NAMES = ["x " * 90 + end for end in ("y", "z")]
WAVEFORM = np.zeros(80_000, np.float32)
BAD: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "dtype": (changed(frames=FRAMES.astype(np.float32)), {}, "inference input 'frames' data-type is 'FP32'"),
    "float64": (changed(waveform=WAVEFORM.astype(np.float64)), {}, "inference input 'waveform' data-type is 'FP64'"),
    "shape": (changed(frames=np.zeros((5, 64, 64, 4), np.uint8)), {}, "unexpected shape for input 'frames'"),
    "rank": (changed(frames=FRAMES[None]), {}, "unexpected shape for input 'frames'"),
    "missing": (changed(sample_rate=None), {}, "inputs to the model 'ov_avss'|expected .* inputs"),
    "unknown input": (changed(color=FRAMES), {}, "unexpected inference input 'color'|expected .* inputs"),
    "no frames": (changed(frames=FRAMES[:0]), {}, "unexpected shape for input 'frames'"),
    "four frames": (changed(frames=FRAMES[:4]), {}, "unexpected shape for input 'frames'"),
    "no pixels": (changed(frames=np.zeros((5, 0, 64, 3), np.uint8)), {}, "'frames' is 64 x 0 pixels; send frames with"),
    "8K": (changed(frames=np.zeros((5, 4320, 7680, 3), np.uint8)), {}, "'frames' is 7680 x 4320 pixels; send frames"),
    "NaN": (
        changed(waveform=np.full(80_000, np.nan, np.float32)),
        {},
        "'waveform' holds NaN or infinite samples, the first at 0;",
    ),
    "infinite": (changed(waveform=np.array([0, 0, np.inf], np.float32)), {}, "infinite samples, the first at 2; send"),
    "no sound": (changed(waveform=WAVEFORM[:0]), {}, "'waveform' has 0 samples; send 1 to 80000"),
    "long sound": (changed(waveform=np.zeros(80_001, np.float32)), {}, "'waveform' has 80001 samples; send 1 to"),
    "rate": (changed(sample_rate=np.array([-1], np.int32)), {}, "'sample_rate' is -1 Hz; send one from 8000"),
    "10 000 names": (
        changed(names=text("\n".join(map(str, range(10_000))))),
        {},
        "holds 10000 names; send at most 2000",
    ),
    "empty name": (changed(names=text("dog\n\ncat")), {}, "class name 2 of 3 is empty"),
    "no names": (changed(names=text("")), {}, "input 'names' is empty; leave it out"),
    "name twice": (changed(names=text("dog\ndog")), {}, "class name 'dog' is there twice"),
    "case alone": (
        changed(names=text("dog\nDog")),
        {},
        "names 'dog' and 'Dog' are the same to CLIP, which ignores case",
    ),
    "beginning alone": (changed(names=text("\n".join(LONG_NAMES))), {}, "are the same to CLIP, which reads 32 tokens"),
    "not UTF-8": (changed(names=text(b"dog\n\xff\xfe")), {}, "input 'names' is not UTF-8 text .* at byte 4"),
    "zero byte": (changed(names=text("d\0g")), {}, "name 1 holds characters that cannot be printed"),
    "long name": (changed(names=text("x" * 201)), {}, "name 1 has 201 characters; send at most 200"),
    "threshold": (good(), {"score_threshold": 1.5}, "'score_threshold' must be a number from 0 to 1, not 1.5"),
    "kind": (good(), {"sound_threshold": "high"}, "'sound_threshold' must be a number from 0 to 1, not 'high'"),
    "top_k": (good(), {"top_k": 0}, "'top_k' must be a whole number from 1 to 100, not 0"),
    "proposals": (good(), {"proposals": "some"}, "'proposals' must be one of all, sounding, not 'some'"),
    "masks": (good(), {"masks": "png"}, "'masks' must be one of bits, rle, not 'png'"),
    "flag": (good(), {"named_only": 1}, "'named_only' must be true or false, not 1"),
    "unknown": (good(), {"sound_treshold": 0.5}, "'sound_treshold' is unknown; choose of proposals, sound_threshold"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_is_refused(client: triton.InferenceServerClient, case: str) -> None:
    arrays, parameters, message = BAD[case]
    with pytest.raises(InferenceServerException, match=message) as caught:
        ask(client, parameters, **arrays)
    assert "Traceback" not in caught.value.message()


def test_a_body_of_500_mb(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="'frames' is 5800 x 5800 pixels; send frames with sides"):
        ask(client, **changed(frames=np.zeros((5, 5800, 5800, 3), np.uint8)))


def test_half_closed_connections(client: triton.InferenceServerClient, server: Live) -> None:
    """Bytes that end in the middle of a request, and a writer that closes its side, on both protocols."""
    half = b"POST /v2/models/ov_avss/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{"
    for port in server.ports[:2]:
        for content in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(5000), b"", half):
            # OSError: the server has closed its side already.
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, suppress(OSError):
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
    with closing(http.client.HTTPConnection("127.0.0.1", server.ports[1], timeout=30)) as plain:
        plain.request("POST", "/v2/models/ov_avss/infer", b"{not JSON")
        answer = plain.getresponse()
        assert answer.status >= 400 and b"failed to parse the request JSON buffer" in answer.read()


def test_models_cannot_be_changed_from_outside(client: triton.InferenceServerClient) -> None:
    for call in (lambda: client.unload_model("usslm"), lambda: client.load_model("usslm")):
        with pytest.raises(InferenceServerException, match="protocol is restricted"):
            call()


def test_the_client_says_it_in_one_sentence(server: Live) -> None:
    with RemotePipeline(server.url) as remote, pytest.raises(UserError) as caught:
        remote(FRAMES, WAVEFORM, LONG_NAMES)
    assert str(caught.value).startswith(f"{server.url} refused the request: class names 'x x x")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"frames": np.zeros((5, 8, 64, 3), np.uint8)}, "input 'frames' is 64 x 8 pixels; send frames with sides from"),
        ({"frames": FRAMES[:4]}, r"input 'frames' is uint8 \[4, 64, 64, 3\]; send uint8 \[5, height, width, 3\]"),
        ({"frames": FRAMES.astype(np.float32)}, r"input 'frames' is float32 \[5, 64, 64, 3\]; send uint8"),
        ({"waveform": WAVEFORM.astype(np.float64)}, r"input 'waveform' is float64 \[80000\]; send float32"),
        ({"waveform": WAVEFORM[None]}, r"input 'waveform' is float32 \[1, 80000\]; send float32 \[samples\], mono"),
        ({"waveform": WAVEFORM[:0]}, "input 'waveform' has 0 samples; send 1 to 80000"),
        (
            {"waveform": np.full(9, np.nan, np.float32)},
            "input 'waveform' holds NaN or infinite samples, the first at 0",
        ),
    ],
)
def test_the_client_sends_nothing_that_cannot_be_right(
    server: Live, arrays: dict[str, np.ndarray], message: str
) -> None:
    given = {"frames": FRAMES, "waveform": WAVEFORM, "vocabulary": ["dog"]} | arrays
    with RemotePipeline(server.url) as remote, pytest.raises(UserError, match=message):
        remote(**given)
    with RemotePipeline(server.url) as remote, pytest.raises(UserError, match="'dog' and 'Dog' are the same to CLIP"):
        remote.embed_names(["dog", "Dog"])
    assert f"'{remote.session}-" not in server.log()
