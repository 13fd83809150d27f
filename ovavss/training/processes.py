"""One process, those that torchrun started, or a pool that renders."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

_Part = TypeVar("_Part")


def map_ranges(function: Callable[[range], _Part], count: int, size: int, workers: int) -> list[_Part]:
    """Calls a function with ranges of at most `size` that cover 0 ... count - 1, in processes of one thread each.

    The function must be picklable: one of a module, or a `functools.partial` of one.
    """
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, ranges))


@contextmanager
def join_processes() -> Iterator[torch.device]:
    """Joins torchrun's processes, if there are any, and leaves them at the end; gives this process's device."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
