"""The capacity formulas against queueing theory's known answers, and against a simulated line."""

import math

import numpy as np
import pytest

from bench.studies.capacity import (
    Service,
    erlang_c,
    mean_wait,
    open_loop,
    plan,
    response,
    servers_needed,
    service_of,
    simulate,
)
from ovavss.errors import UserError


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_one_server(load: float) -> None:
    mean = 0.2
    rate = load / mean
    assert erlang_c(1, load) == pytest.approx(load)
    assert mean_wait(rate, Service(mean, 1.0), 1) == pytest.approx(load * mean / (1 - load))  # M/M/1
    assert mean_wait(rate, Service(mean, 0.0), 1) == pytest.approx(load * mean / (1 - load) / 2)  # M/D/1
    # The wait's tail of M/M/1: P(W > t) = load * exp(-(1 - load) t / mean).
    wait = response(rate, Service(mean, 1.0), 1) - mean
    if load > 0.01:
        assert load * math.exp(-(1 - load) * wait / mean) == pytest.approx(0.01)


def test_two_servers() -> None:
    # M/M/2: C = 2 r^2 / (1 + r) with r = load / 2.
    for load in (0.4, 1.0, 1.8):
        half = load / 2
        assert erlang_c(2, load) == pytest.approx(2 * half**2 / (1 + half))
    assert erlang_c(400, 380.0) < 0.5 and math.isinf(mean_wait(2.0, Service(1.0), 2))


@pytest.mark.parametrize("servers", [1, 3])
def test_a_simulated_line_of_constant_service(servers: int) -> None:
    mean, busy = 1.0, 0.7
    rate = busy * servers / mean
    found = simulate(rate, lambda n: np.full(n, mean), servers, 100_000)
    assert found.mean() - mean == pytest.approx(mean_wait(rate, Service(mean), servers), rel=0.08)
    assert np.percentile(found, 99) == pytest.approx(response(rate, Service(mean), servers), rel=0.25)


def test_fewest_servers() -> None:
    service = Service(0.1)
    needed = servers_needed(50, service, 0.2)
    assert response(50, service, needed) <= 0.2 < response(50, service, needed - 1)
    with pytest.raises(UserError, match=r"--p99-ms 50 cannot be met: one clip alone takes 100 ms at p99"):
        servers_needed(1, service, 0.05)


def test_the_slowest_step_is_the_one_to_scale() -> None:
    made = plan(20, 1.0, Service(0.1), {"a": 0.02, "b": 0.07, "c": 0.01})
    assert made.step == "b" and made.ceiling == pytest.approx(1 / 0.07) and made.share["b"] == pytest.approx(0.7)
    assert made.servers * made.busy == pytest.approx(2.0) and made.instances["b"] >= 2 > made.instances["c"]


def test_a_runner_that_was_not_measured() -> None:
    row = {"runner": "torch", "mean_ms": 10.0, "p50_ms": 10.0, "p99_ms": 12.33, "steps_ms": {"usslm": 10.0}}
    name, service, steps = service_of({"clips": [row]}, None)
    assert (name, service.mean, steps) == ("torch", 0.01, {"usslm": 0.01})
    assert service.cv2 == pytest.approx(0.01)
    with pytest.raises(UserError, match="--runner 'onnx' was not measured; choose of torch"):
        service_of({"clips": [row]}, "onnx")


def test_an_open_loop_does_not_wait_for_answers() -> None:
    # Twenty requests at once on one server that takes a while: each waits for all before it.
    order: list[int] = []
    responses, services = open_loop(order.append, 1e9, 1, 20)
    assert order == list(range(20)) and len(services) == 20
    assert (np.diff(responses) > 0).all() and responses[-1] >= services.sum()
