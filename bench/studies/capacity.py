"""How many machines (or GPUs) serve X clips a second at a p99, and which step to scale first.

    python bench/studies/capacity.py --latency latency.json --rate 50 --p99-ms 400 [--runner onnx+op]
    python bench/studies/capacity.py --engines DIR --check  # the formula against a real load on this machine

Assumptions. Requests come at random (Poisson), each is one clip, and waits in one line for c servers that are alike.
Service times have the mean and the coefficient of variation that were measured, and do not depend on the load: no
batching over requests, no cores shared between servers. Waiting is M/G/c by Lee and Longton: the mean wait of M/M/c
(Erlang C) times (1 + cv^2) / 2, which is exact for M/M/c and, as Pollaczek-Khinchine, for M/G/1; with cv = 0 it is
M/D/c. The tail of the wait is taken as exponential with that mean (given that one waits at all), exact for M/M/c. The
response is the wait plus the service time: their quantiles are added, which overstates a little.
"""

import json as json_library
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bench.backends import EAGER, Source, backends
from bench.measuring import Cell, Table, header
from bench.options import JsonOption, WeightsOption, run
from ovavss.errors import UserError
from ovavss.evaluation.evaluate import world_clips
from ovavss.files import write_json
from ovavss.pipeline.pipeline import Pipeline
from ovavss.pipeline.steps import Options


@dataclass(frozen=True)
class Service:
    """Service time of one request: mean in seconds, squared coefficient of variation, and its 99th percentile."""

    mean: float
    cv2: float = 0.0
    p99: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float] | np.ndarray) -> "Service":
        """From measured times."""
        mean = float(np.mean(seconds))
        return cls(mean, float(np.var(seconds)) / mean**2, float(np.percentile(seconds, 99)))


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c; `load` is rate times mean service time, in servers (Erlang). 1 if overloaded."""
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion, which neither overflows nor cancels
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(rate: float, service: Service, servers: int) -> float:
    """Mean wait in seconds, M/G/c; infinite if overloaded."""
    load = rate * service.mean
    if load >= servers:
        return math.inf
    return erlang_c(servers, load) * service.mean / (servers - load) * (1 + service.cv2) / 2


def response(rate: float, service: Service, servers: int, quantile: float = 0.99) -> float:
    """That quantile of wait plus service in seconds; infinite if overloaded."""
    mean, waits = mean_wait(rate, service, servers), erlang_c(servers, rate * service.mean)
    if math.isinf(mean):
        return math.inf
    wait = mean / waits * math.log(waits / (1 - quantile)) if waits > 1 - quantile else 0.0
    served = service.p99 if service.p99 is not None and quantile >= 0.99 else service.mean
    return wait + served


def servers_needed(rate: float, service: Service, p99: float) -> int:
    """Fewest servers whose 99th percentile of the response is at most `p99` seconds.

    Raises UserError where even an idle server takes longer.
    """
    alone = service.p99 if service.p99 is not None else service.mean
    if alone > p99:
        raise UserError(f"--p99-ms {1e3 * p99:.0f} cannot be met: one clip alone takes {1e3 * alone:.0f} ms at p99")
    start = max(1, math.ceil(rate * service.mean))
    return next(servers for servers in count(start) if response(rate, service, servers) <= p99)


@dataclass(frozen=True)
class Plan:
    """What a load needs. `servers`: each does whole clips. `share`: part of a clip's time that each step takes.
    `step`: the one to scale first where each step is a server of its own; `instances` of each then keep it at most as
    busy as the servers above are; `ceiling`: clips/s with one instance of each, the slowest step's rate."""

    servers: int
    busy: float
    p99: float
    share: dict[str, float]
    step: str
    instances: dict[str, int]
    ceiling: float


def plan(rate: float, p99: float, service: Service, steps: Mapping[str, float]) -> Plan:
    """For `rate` clips/s at a 99th percentile of `p99` seconds; `steps`: mean seconds of each step."""
    servers = servers_needed(rate, service, p99)
    busy = rate * service.mean / servers
    slowest = max(steps, key=lambda name: steps[name])
    total = sum(steps.values())
    instances = {name: max(1, math.ceil(rate * seconds / busy - 1e-9)) for name, seconds in steps.items()}
    share = {name: seconds / total for name, seconds in steps.items()}
    return Plan(servers, busy, response(rate, service, servers), share, slowest, instances, 1 / steps[slowest])


def simulate(rate: float, draw: Callable[[int], np.ndarray], servers: int, requests: int, seed: int = 0) -> np.ndarray:
    """Response times of a simulated line of c servers; `draw(n)` gives n service times. The first tenth is dropped."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    free, found = [0.0] * servers, np.empty(requests)
    for i, (arrival, service) in enumerate(zip(arrivals, draw(requests))):
        k = free.index(min(free))
        free[k] = max(arrival, free[k]) + service
        found[i] = free[k] - arrival
    return found[requests // 10 :]


def open_loop(
    run: Callable[[int], object], rate: float, servers: int, requests: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A real load: request i comes at a random time whether or not earlier ones are done. Returns seconds of response
    (from its arrival) and of service, each [requests]."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    responses, services, lock = np.zeros(requests), np.zeros(requests), threading.Lock()
    start = time.perf_counter()

    def serve(i: int) -> None:
        begun = time.perf_counter()
        run(i)
        ended = time.perf_counter()
        with lock:
            responses[i], services[i] = ended - start - arrivals[i], ended - begun

    with ThreadPoolExecutor(servers) as pool:
        waiting = []
        for i, arrival in enumerate(arrivals):
            time.sleep(max(0.0, start + arrival - time.perf_counter()))
            waiting.append(pool.submit(serve, i))
    for one in waiting:
        one.result()
    return responses, services


def check(source: Source, servers: int, busy: float, requests: int) -> dict[str, Any]:
    """The formula against a load on this machine's pipeline, in milliseconds.

    Service times are measured before, with as many clips at a time as there are servers, so that they share the machine
    as under load; `during` uses those of the load itself, which tells a wrong formula from a machine that changed, and
    `replayed` is one line with the load's own arrivals and service times, which tells it from luck: a few hundred
    arrivals seldom have the p99 of all that could have come.
    """
    found, threads = backends(source), torch.get_num_threads()
    name = "onnx+op" if not found["onnx+op"].missing else EAGER
    try:
        torch.set_num_threads(1)  # a server is a thread here
        pipeline = Pipeline(source.preset(), found[name].open(), Options(merge_iou=0.95))
        vocabulary = pipeline.embed_names(source.names())
        clips = list(world_clips(2000, min(16, requests)))

        def run(i: int) -> object:
            clip = clips[i % len(clips)]
            return pipeline(clip.frames, clip.waveform, vocabulary)

        run(0)
        _, before = open_loop(run, 1e6, servers, max(len(clips), requests // 5))
        service = Service.of(before)
        rate = busy * servers / service.mean
        responses, services = open_loop(run, rate, servers, requests, seed=0)
    finally:
        torch.set_num_threads(threads)
    during, random = Service.of(services), np.random.default_rng(1)
    line = simulate(rate, lambda n: random.choice(services, n), servers, 20_000)
    replayed = simulate(rate, lambda n: services, servers, requests, seed=0)  # the same seed, so the same arrivals
    lines = {"simulated": line, "replayed": replayed, "measured": responses[-len(replayed) :]}
    return {
        "runner": name,
        "servers": servers,
        "rate": rate,
        "busy": {"predicted": busy, "during": rate * during.mean / servers},
        "service_ms": {"before": 1e3 * service.mean, "during": 1e3 * during.mean, "cv2": during.cv2},
        "mean_ms": {
            "predicted": 1e3 * (mean_wait(rate, service, servers) + service.mean),
            "predicted_during": 1e3 * (mean_wait(rate, during, servers) + during.mean),
            **{name: 1e3 * float(np.mean(seconds)) for name, seconds in lines.items()},
        },
        "p99_ms": {
            "predicted": 1e3 * response(rate, service, servers),
            "predicted_during": 1e3 * response(rate, during, servers),
            **{name: 1e3 * float(np.percentile(seconds, 99)) for name, seconds in lines.items()},
        },
        "requests": requests,
    }


def service_of(latency: Mapping[str, Any], runner: str | None) -> tuple[str, Service, dict[str, float]]:
    """A runner's service time and steps (seconds) from the JSON of latency.py; None: the fastest."""
    rows = {row["runner"]: row for row in latency["clips"]}
    name = runner or min(rows, key=lambda key: rows[key]["mean_ms"])
    if name not in rows:
        raise UserError(f"--runner '{name}' was not measured; choose of {','.join(rows)}")
    row = rows[name]
    # Three percentiles say how wide the times are: those of a normal distribution are 2.33 deviations from its middle.
    spread = max(0.0, row["p99_ms"] - row["p50_ms"]) / 2.33 / row["mean_ms"]
    steps = {step: milliseconds / 1e3 for step, milliseconds in row["steps_ms"].items()}
    return name, Service(row["mean_ms"] / 1e3, spread**2, row["p99_ms"] / 1e3), steps


def read_latency(path: Path) -> dict[str, Any]:
    """The JSON file of latency.py; UserError where it is not one."""
    try:
        content: dict[str, Any] = json_library.loads(path.read_text())
        if not content["clips"][0]["steps_ms"]:
            raise KeyError("steps_ms")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not a file of bench/latency.py ({error}); write one with its --json") from error
    return content


def check_table(found: Mapping[str, Any]) -> Table:
    """The response of `check`: by the formula, of simulated lines, and as measured."""
    title = (
        f"{found['runner']}, {found['servers']} threads, {found['requests']} clips at random times, "
        f"{found['rate']:.3g} clips/s"
    )
    columns = ["predicted", "predicted_during", "simulated", "replayed", "measured"]
    rows = [[f"{name} ms", *(found[f"{name}_ms"][key] for key in columns)] for name in ("mean", "p99")]
    return Table(title, ["response", "predicted before", "predicted during", *columns[2:]], rows)


def main(
    latency: Annotated[Path | None, typer.Option(help="JSON file of bench/latency.py.")] = None,
    rate: Annotated[float, typer.Option(min=1e-6, help="Clips a second.")] = 10,
    p99_ms: Annotated[float, typer.Option(min=1e-6, help="Largest p99 of the response.")] = 1000,
    runner: Annotated[str | None, typer.Option(help="Of the file; default: the fastest.")] = None,
    engines: Annotated[Path | None, typer.Option(help="With --check: the engines to load.")] = None,
    weights: WeightsOption = None,
    check_here: Annotated[bool, typer.Option("--check", help="Compare with a real load on this machine.")] = False,
    servers: Annotated[int, typer.Option(min=1, help="With --check: clips at the same time.")] = 1,
    busy: Annotated[float, typer.Option(min=0.05, max=0.95, help="With --check: how busy they are.")] = 0.6,
    requests: Annotated[int, typer.Option(min=10, help="With --check: how many clips.")] = 300,
    json: JsonOption = None,
) -> None:
    """How many servers a load needs, and the formula against a measured point."""
    content = header()
    if latency is None and not check_here:
        raise UserError("there is nothing to do: give --latency FILE, or --check with --engines DIR")
    if latency is not None:
        name, service, steps = service_of(read_latency(latency), runner)
        made = plan(rate, p99_ms / 1e3, service, steps)
        title = (
            f"{rate:g} clips/s with {name}: {made.servers} servers of whole clips, each {100 * made.busy:.0f} % busy, "
            f"p99 {1e3 * made.p99:.0f} ms.\nWith each step a server of its own, scale {made.step} first: alone it "
            f"stops at {made.ceiling:.1f} clips/s."
        )
        rows: list[list[Cell]] = [[step, 100 * share, made.instances[step]] for step, share in made.share.items()]
        Table(title, ["step", "share of a clip %", "instances"], rows).print(150)
        content |= {"runner": name, "rate": rate, "service": asdict(service), "plan": asdict(made)}
    if check_here:
        if engines is None:
            raise UserError("--check needs --engines DIR, which `ovavss export` writes")
        content["check"] = check(Source.of(engines, weights), servers, busy, requests)
        check_table(content["check"]).print(150)
    if json is not None:
        write_json(json, content)


if __name__ == "__main__":
    run(main)
