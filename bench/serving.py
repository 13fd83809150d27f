"""The Triton ensemble under load, beside the pipeline in this process, driven by MLPerf's LoadGen (group `bench`).

    python bench/serving.py scenarios --engines DIR --out OUT   # SingleStream, MultiStream, Server, Offline, accuracy
    python bench/serving.py load --engines DIR --out OUT        # latency against the rate of random arrivals
    python bench/serving.py share --engines DIR --out OUT       # its throughput against its slowest step alone
    python bench/serving.py soak --engines DIR --out OUT        # eight clients for two minutes: answers and memory

Each starts its own server and writes OUT/<command>.json. Only ratios of one run mean something.
"""

import array
import json
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tritonclient.grpc as triton
import typer

from bench.measuring import header
from bench.options import EnginesOption, NumClipsOption
from ovavss.commands.process import command
from ovavss.datasets.vocabulary import default_vocabulary
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import WORLD, EvaluationClip, Prediction, evaluate, world_clips
from ovavss.files import write_json
from ovavss.models.ov_avss.presets import AUDIO_ENCODER, CLIP_IMAGE_ENCODER, USSLM_GRAPH, Proposals
from ovavss.pipeline.pipeline import Pipeline, Segmentation
from ovavss.pipeline.steps import Options, crop_regions, encode_audio, localize, select_regions
from ovavss.runtime.engines import open_engines
from ovavss.serving.client import RemotePipeline
from ovavss.serving.repository import write_repository
from ovavss.serving.server import Server

SEED, CLIENTS = 1000, 8
LOADS = (0.2, 0.4, 0.6, 0.8, 0.9)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option(help="Folder for the figures, the server's log and LoadGen's.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Seconds of each run.")]
Segment = Callable[[EvaluationClip], Segmentation]


@contextmanager
def serving(engines: Path, out: Path) -> Iterator[tuple[str, Server]]:
    """A server on free ports; its URL."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (probe.getsockname()[1] for probe in sockets)
    for probe in sockets:
        probe.close()
    write_repository(engines, out / "repository")
    with Server(out / "repository", out, "127.0.0.1", http, grpc, metrics) as server:
        server.wait_ready()
        yield f"grpc://127.0.0.1:{grpc}", server


Systems = dict[str, tuple[Segment, int]]
"""Under test, by name: how a clip is segmented, and by how many threads at a time."""


@contextmanager
def systems(engines: Path, out: Path, clips: int) -> Iterator[tuple[Systems, list[EvaluationClip]]]:
    """The ensemble and the local pipeline, both warm, and the held-out clips for them."""
    held_out = list(world_clips(SEED, clips))
    pipeline = Pipeline(*open_engines(engines))
    names = default_vocabulary(pipeline.preset)
    vocabulary = pipeline.embed_names(names)
    with serving(engines, out) as (url, _), RemotePipeline(url, in_flight=CLIENTS) as remote:
        found: Systems = {
            "ensemble": (lambda clip: remote(clip.frames, clip.waveform, names), CLIENTS),
            "local": (lambda clip: pipeline(clip.frames, clip.waveform, vocabulary), 1),
        }
        for segment, _workers in found.values():
            segment(held_out[0])
        yield found, held_out


@app.command()
@command
def scenarios(
    engines: EnginesOption,
    out: Out,
    seconds: Seconds = 60,
    num_clips: NumClipsOption = 50,
    latency: Annotated[float, typer.Option(help="Seconds that the Server scenario allows.")] = 1.0,
) -> None:
    """LoadGen's four scenarios and its accuracy mode.

    LoadGen calls a run INVALID that was too short for its statistics: give it more seconds.
    """
    figures: dict[str, Any] = {"header": header(), "clips": num_clips}
    with systems(engines, out, num_clips) as (backends, held_out):
        for name, (segment, workers) in backends.items():
            rate = None
            for scenario in ("SingleStream", "MultiStream", "Offline", "Server"):
                folder = out / "loadgen" / name / scenario
                summary = drive(segment, held_out, workers, scenario, folder, seconds, latency, rate)
                # Offline is given work for at least its time; Server is asked for two thirds of what Offline reaches.
                if summary["samples_per_second"] is not None:
                    rate = summary["samples_per_second"] * (2 / 3 if scenario == "Offline" else 2)
                figures.setdefault(name, {})[scenario] = summary
            folder = out / "loadgen" / name / "accuracy"
            drive(segment, held_out, workers, "Offline", folder, seconds, latency, None, accuracy=True)
            figures[name]["mean_iou"] = logged_miou(folder, held_out)
            print(name, json.dumps(figures[name]))
    write_json(out / "scenarios.json", figures)


@app.command()
@command
def load(engines: EnginesOption, out: Out, seconds: Seconds = 30, num_clips: NumClipsOption = 50) -> None:
    """Latency at several rates of random arrivals, up to nearly what Offline reaches."""
    found = measure_load(engines, out, seconds, num_clips)
    print(json.dumps(found["systems"]))
    write_json(out / "load.json", found)


def measure_load(
    engines: Path, out: Path, seconds: float, clips: int, loads: Sequence[float] = LOADS
) -> dict[str, Any]:
    """What `load` writes: of each system the clips/s of Offline, and for each rate the clips/s that were completed and
    the latency's percentiles in milliseconds."""
    measured: dict[str, Any] = {}
    with systems(engines, out, clips) as (backends, held_out):
        for name, (segment, workers) in backends.items():
            folder = out / "loadgen" / f"{name}_load"
            begin = time.perf_counter()
            with ThreadPoolExecutor(workers) as executor:
                list(executor.map(segment, held_out))
            rate = len(held_out) / (time.perf_counter() - begin)
            offline = drive(segment, held_out, workers, "Offline", folder / "offline", seconds, 1, rate)
            points = []
            for share in loads:
                rate = share * offline["samples_per_second"]
                summary = drive(segment, held_out, workers, "Server", folder / f"{share}", seconds, 60, rate)
                latency = {f"p{p}_ms": 1e3 * summary[f"{p}.00 percentile latency"] for p in (50, 90, 99)}
                points.append({"rate": rate, "completed": summary["samples_per_second"], **latency})
            measured[name] = {"offline": offline["samples_per_second"], "points": points}
    return {"header": header(), "clips": clips, "seconds": seconds, "systems": measured}


def drive(
    segment: Segment, clips: Sequence[EvaluationClip], workers: int, scenario: str, folder: Path, seconds: float,
    latency: float, rate: float | None, accuracy: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One run of LoadGen; the figures of its summary."""
    try:
        import mlperf_loadgen as loadgen
    except ImportError:
        raise UserError("MLPerf's LoadGen is not installed: uv sync --group bench") from None
    folder.mkdir(parents=True, exist_ok=True)
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.AccuracyOnly if accuracy else loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(1000 * seconds), 1
    settings.max_duration_ms = int(10_000 * seconds)
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = 50_000_000
    settings.offline_expected_qps = settings.server_target_qps = rate or 10
    settings.server_target_latency_ns = int(latency * 1e9)
    logs = loadgen.LogSettings()
    logs.log_output = loadgen.LogOutputSettings()
    logs.log_output.outdir, logs.enable_trace = str(folder), False

    failed: list[Exception] = []

    def answer(sample: Any) -> None:
        data = array.array("B")
        try:
            data.frombytes(segment(clips[sample.index]).label_map.numpy().astype(np.uint8).tobytes())
        except Exception as error:  # LoadGen waits for every answer: raised at the end
            failed.append(error)
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, *data.buffer_info())])

    with ThreadPoolExecutor(workers) as executor:

        def issue(samples: Sequence[Any]) -> None:
            for sample in samples:
                executor.submit(answer, sample)

        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(len(clips), len(clips), lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(system, library, settings, logs)
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    if failed:
        raise failed[0]
    return {} if accuracy else read_summary(folder / "mlperf_log_summary.txt")


def read_summary(path: Path) -> dict[str, Any]:
    """Validity, samples a second and latency percentiles (seconds) of LoadGen's summary."""
    text = path.read_text()
    found = dict(re.findall(r"^\s*([^:\n]+?)\s*:\s*(\S+)\s*$", text, re.M))
    figures: dict[str, Any] = {"result": found.get("Result is")}
    figures |= {k.removesuffix(" (ns)"): float(v) / 1e9 for k, v in found.items() if "percentile latency (ns)" in k}
    known = ("Samples per second", "Completed samples per second", "QPS w/o loadgen overhead")
    return figures | {"samples_per_second": next((float(found[name]) for name in known if name in found), None)}


def logged_miou(folder: Path, clips: Sequence[EvaluationClip]) -> float:
    """Mean IoU of the label maps in LoadGen's accuracy log."""
    logged = json.loads((folder / "mlperf_log_accuracy.json").read_text())
    maps = {entry["qsl_idx"]: np.frombuffer(bytes.fromhex(entry["data"]), np.uint8) for entry in logged}
    by_name = {clip.name: maps[i].reshape(clip.label_map.shape) for i, clip in enumerate(clips)}
    return evaluate(lambda clip: Prediction(by_name[clip.name]), clips, WORLD).scores.mean


@app.command()
@command
def share(
    engines: EnginesOption, out: Out, rounds: int = 6, requests: int = 60, proposals: Proposals = Proposals.ALL
) -> None:
    """Clips a second of the ensemble and of each graph alone, in turns, with as many requests in flight."""
    pipeline = Pipeline(*open_engines(engines))
    names, clips = default_vocabulary(pipeline.preset), list(world_clips(SEED, 16))
    steps = [step_inputs(pipeline, clip) for clip in clips]
    rates: dict[str, list[float]] = {}

    def rate(call: Callable[[int], object]) -> float:
        begin = time.perf_counter()
        list(executor.map(call, range(requests)))
        return requests / (time.perf_counter() - begin)

    with (
        serving(engines, out) as (url, _),
        RemotePipeline(url, Options(proposals), in_flight=CLIENTS, shared=False) as remote,
        ThreadPoolExecutor(CLIENTS) as executor,
    ):
        calls: dict[str, Callable[[int], object]] = {
            "ensemble": lambda i: remote(clips[i % 16].frames, clips[i % 16].waveform, names)
        }
        for model in steps[0]:
            calls[model] = lambda i, model=model: remote.client.infer(model, steps[i % 16][model])  # type: ignore[misc]
        for call in calls.values():
            rate(call)
        for _ in range(rounds):
            for name, call in calls.items():
                rates.setdefault(name, []).append(rate(call))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    slowest = min((name for name in middle if name != "ensemble"), key=lambda name: middle[name])
    shares = [ours / theirs for ours, theirs in zip(rates["ensemble"], rates[slowest])]
    result = {
        "proposals": proposals,
        "slowest": slowest,
        "share": statistics.median(shares),
        "shares": shares,
        "clips_per_second": middle,
    }
    print(json.dumps(result))
    write_json(out / "share.json", {"header": header(), **result})


def step_inputs(pipeline: Pipeline, clip: EvaluationClip) -> dict[str, list[Any]]:
    """What each graph of the ensemble is sent for a clip."""
    waveform, frames = torch.from_numpy(clip.waveform)[None], torch.from_numpy(clip.frames)
    audio = encode_audio(pipeline.runners[AUDIO_ENCODER], waveform)
    (located,) = localize(pipeline.runners[USSLM_GRAPH], frames[None], audio)
    regions = select_regions(located.mask_logits, located.sound_scores, Options()).crops
    size = pipeline.preset.clip.image_size
    crops = crop_regions(located, regions, size, Options())
    if not len(crops):
        crops = torch.zeros(1, 3, size, size)
    arrays = {AUDIO_ENCODER: {"waveform": waveform}, USSLM_GRAPH: {"frames": frames, "audio": audio},
              CLIP_IMAGE_ENCODER: {"crops": crops}}  # fmt: skip
    return {model: [_input(name, tensor.numpy()) for name, tensor in given.items()] for model, given in arrays.items()}


def _input(name: str, array: np.ndarray) -> Any:
    tensor = triton.InferInput(name, array.shape, {"uint8": "UINT8", "float32": "FP32"}[str(array.dtype)])
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


@app.command()
@command
def soak(engines: EnginesOption, out: Out, seconds: Seconds = 120) -> None:
    """Eight clients: every answer compared with the local pipeline's, and the server's memory as it runs."""
    pipeline = Pipeline(*open_engines(engines))
    names, clips = default_vocabulary(pipeline.preset), list(world_clips(SEED, 16))
    vocabulary = pipeline.embed_names(names)
    expected = [pipeline(clip.frames, clip.waveform, vocabulary).label_map for clip in clips]
    with serving(engines, out) as (url, server):
        end, begin, memory = time.monotonic() + seconds, time.monotonic(), []

        def client(number: int) -> tuple[int, int]:
            done = wrong = 0
            with RemotePipeline(url, in_flight=1) as remote:
                while time.monotonic() < end:
                    which = (number + done) % len(clips)
                    found = remote(clips[which].frames, clips[which].waveform, names)
                    done, wrong = done + 1, wrong + (not torch.equal(found.label_map, expected[which]))
            return done, wrong

        with ThreadPoolExecutor(CLIENTS) as executor:
            clients = [executor.submit(client, number) for number in range(CLIENTS)]
            while time.monotonic() < end:
                time.sleep(min(5.0, max(end - time.monotonic(), 0)))
                memory.append((round(time.monotonic() - begin), resident(server) / 2**20))
            answers = [future.result() for future in clients]
    result = {"answers": sum(done for done, _ in answers), "wrong": sum(wrong for _, wrong in answers), "mib": memory}
    print(json.dumps(result))
    write_json(out / "soak.json", {"header": header(), **result})


def resident(server: Server) -> int:
    """Bytes of memory of the server and its Python steps."""
    pids = (server.process.pid, *server.step_processes())
    return sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    app()
