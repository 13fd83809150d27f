"""The ensemble from the client's side: a pipeline whose graphs run on a Triton server."""

import ipaddress
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, shared_memory

from ovavss.errors import UserError
from ovavss.models.ov_avss.audio_encoder import SAMPLE_RATE
from ovavss.models.ov_avss.open_vocabulary import Ranking
from ovavss.models.ov_avss.presets import PRESETS
from ovavss.pipeline.pipeline import Clip, Segmentation
from ovavss.pipeline.steps import Options
from ovavss.serving.masks import unpack
from ovavss.serving.repository import ENSEMBLE
from ovavss.serving.request import MaskFormat, check_clip, names_to_bytes, read_vocabulary, write_parameters

DEFAULT_PORT = 8001
_OUTPUTS = ("labels", "queries", "scores", "masks", "label_map", "crops")
# What a restarted server, or one that brings back a step, answers before it is whole again.
_PASSING = (
    "is not healthy", "no available versions", "is not ready", "Unable to find shared memory region",
    "erver is stopping", "Socket closed",
)  # fmt: skip
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0


class RemotePipeline:
    """Runs clips on the server at `url` (grpc://host:port); a context manager. Used like `Pipeline`.

    options: as of the local pipeline, sent with each request. deadline: seconds that a clip may take, retries on a
    server that is down or starts included. in_flight: clips on the way at a time. masks: how they travel.
    shared: send frames through shared memory; None: where the server is on this machine and accepts it.

    Raises UserError where the server cannot be reached, refuses a request, or does not answer in time.
    """

    def __init__(
        self,
        url: str,
        options: Options | None = None,
        deadline: float = 120.0,
        in_flight: int = 4,
        masks: MaskFormat = MaskFormat.BITS,
        shared: bool | None = None,
    ) -> None:
        self.url, self.deadline, self.masks, self.in_flight = url, deadline, masks, in_flight
        self.options = options or Options()
        self.step: Callable[[str], AbstractContextManager[object]] = nullcontext  # the steps run elsewhere
        self.parameters = write_parameters(self.options, masks)
        address, local = parse_url(url)
        # Default keep-alive of a channel notices a dead server late; a refused connection is told at once.
        self.client = triton.InferenceServerClient(address)
        self.executor = ThreadPoolExecutor(in_flight)
        self.session = uuid.uuid4().hex[:12]
        self.count = 0
        self._regions: SimpleQueue[_Region] = SimpleQueue()
        self._all_regions = [_Region(f"/ovavss-{self.session}-{i}") for i in range(in_flight)]
        for region in self._all_regions:
            self._regions.put(region)
        self.shared = local if shared is None else shared
        try:
            self.preset = PRESETS[self._retried(self._preset_name)]
        except BaseException:
            self.close()
            raise

    def _preset_name(self, left: float) -> str:
        config = self.client.get_model_config(ENSEMBLE, client_timeout=left).config
        return str(config.parameters["preset"].string_value)

    def __enter__(self) -> "RemotePipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is on its way, give back shared memory, hang up."""
        self.executor.shutdown(cancel_futures=True)
        for region in self._all_regions:
            region.free(self.client)
        self.client.close()

    def embed_names(self, names: Sequence[str], progress: Callable[[int], object] | None = None) -> tuple[str, ...]:
        """Checks the names, which stand for the embeddings that the server keeps.

        Every clip of a stream is sent the same names, so that a label means the same in all its windows, whatever
        server answers.

        Raises:
            UserError: A name is empty, too long or there twice.
        """
        read_vocabulary(names_to_bytes(names))
        if progress is not None:
            progress(len(names))
        return tuple(names)

    def __call__(self, frames: np.ndarray, waveform: np.ndarray, vocabulary: Sequence[str]) -> Segmentation:
        """One clip: frames uint8 [T, H, W, 3] RGB, waveform float32 [S] at 16 kHz, class names."""
        check_clip(frames, waveform, SAMPLE_RATE, self.preset.snippets)
        self.count += 1
        request_id = f"{self.session}-{self.count}"
        return self._retried(lambda left: self._infer(frames, waveform, vocabulary, request_id, left))

    def stream(self, clips: Iterable[Clip], vocabulary: Sequence[str]) -> Iterator[Segmentation]:
        """Clips one by one, in order, `in_flight` of them on the way at a time: each is answered once."""
        waiting: deque[Future[Segmentation]] = deque()
        try:
            for frames, waveform in clips:
                if len(waiting) == self.in_flight:
                    yield waiting.popleft().result()
                waiting.append(self.executor.submit(self, frames, waveform, vocabulary))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _retried(self, call: Callable[[float], Any]) -> Any:
        """`call` with the seconds left, again while the server is away, until the deadline.

        A request changes nothing on the server, so asking twice does no harm.
        """
        end, wait = time.monotonic() + self.deadline, _FIRST_WAIT
        while True:
            left = end - time.monotonic()
            try:
                return call(max(left, 0.001))
            except InferenceServerException as error:
                status, message = str(error.status()), error.message()
                if "DEADLINE_EXCEEDED" in status:
                    raise UserError(f"{self.url} did not answer within {self.deadline:g} s; give it longer") from None
                away = "UNAVAILABLE" in status or "CANCELLED" in status
                if not away and not any(words in message for words in _PASSING):
                    raise UserError(f"{self.url} refused the request: {_plain(message)}") from None
                if left < wait:
                    raise UserError(
                        f"{self.url} cannot be reached ({_plain(message)}); is the server running?"
                    ) from None
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _infer(
        self, frames: np.ndarray, waveform: np.ndarray, names: Sequence[str], request_id: str, left: float
    ) -> Segmentation:
        region = self._regions.get()
        try:
            arrays = {
                "waveform": waveform, "sample_rate": np.array([SAMPLE_RATE], np.int32), "names": names_to_bytes(names),
            }  # fmt: skip
            inputs = [_tensor("frames", frames)]
            if not (self.shared and region.fill(self.client, inputs[0], frames)):
                self.shared = False
                inputs[0].set_data_from_numpy(frames)
            for name, array in arrays.items():
                inputs.append(_tensor(name, array))
                inputs[-1].set_data_from_numpy(array)
            outputs = [triton.InferRequestedOutput(name) for name in _OUTPUTS]
            result = self.client.infer(
                ENSEMBLE, inputs, outputs=outputs, request_id=request_id, parameters=self.parameters or None,
                client_timeout=left,
            )  # fmt: skip
        except InferenceServerException:
            region.registered = False  # a restarted server knows no region
            raise
        finally:
            self._regions.put(region)
        found = {name: result.as_numpy(name) for name in _OUTPUTS}
        masks = unpack(found["masks"], self.masks, frames.shape[1:3])
        columns = [torch.from_numpy(found[name].copy()) for name in ("queries", "labels", "scores")]
        ranking = Ranking(columns[0].long(), columns[1].long(), columns[2])
        label_map = torch.from_numpy(found["label_map"].astype(np.int32))
        return Segmentation(ranking, torch.from_numpy(masks), label_map, int(found["crops"][0]))


class _Region:
    """A piece of shared memory for the frames of one clip."""

    def __init__(self, key: str) -> None:
        self.key, self.name = key, key[1:]
        self.handle: Any = None
        self.size = 0
        self.registered = False

    def fill(self, client: triton.InferenceServerClient, tensor: Any, frames: np.ndarray) -> bool:
        """Put frames there and point the tensor at them; False where this machine or the server does not allow it."""
        if self.handle is None or self.size < frames.nbytes:
            self.free(client)
            try:
                self.handle = shared_memory.create_shared_memory_region(self.name, self.key, frames.nbytes)
            except shared_memory.SharedMemoryException:
                return False
            self.size = frames.nbytes
        if not self.registered:
            try:
                client.unregister_system_shared_memory(self.name)
                client.register_system_shared_memory(self.name, self.key, self.size)
            except InferenceServerException as error:
                if "UNAVAILABLE" in str(error.status()) and "restricted" not in error.message():
                    raise
                return False
            self.registered = True
        shared_memory.set_shared_memory_region(self.handle, [np.ascontiguousarray(frames)])
        tensor.set_shared_memory(self.name, frames.nbytes)
        return True

    def free(self, client: triton.InferenceServerClient) -> None:
        """Give it back, here and, if it still answers, at the server."""
        if self.handle is None:
            return
        try:
            if self.registered:
                client.unregister_system_shared_memory(self.name, client_timeout=1)
        except InferenceServerException:
            pass
        finally:
            shared_memory.destroy_shared_memory_region(self.handle)
            self.handle, self.registered = None, False


def _tensor(name: str, array: np.ndarray) -> Any:
    return triton.InferInput(
        name, array.shape, {"uint8": "UINT8", "float32": "FP32", "int32": "INT32"}[str(array.dtype)]
    )


def _plain(message: str) -> str:
    return message.removeprefix(f"in ensemble '{ENSEMBLE}', ").strip().splitlines()[0][:300]


def parse_url(url: str) -> tuple[str, bool]:
    """Address for gRPC and whether it is on this machine, from grpc://host:port. UserError for anything else."""
    parts = urlsplit(url)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        port = 0
    if parts.scheme != "grpc" or not parts.hostname or not port or parts.path.strip("/"):
        raise UserError(
            f"--url {url} is no server; give grpc://HOST:PORT, for instance grpc://localhost:{DEFAULT_PORT}"
        )
    host = parts.hostname
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), local
