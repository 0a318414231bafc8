"""The clock of a GPU and the speed of its memory; and a stand-in for both where Triton's interpreter runs on a CPU."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

AHEAD = 20_000_000  # cycles of the device, some 10 ms, in which what is measured is queued: then no launch is waited for
SLOW_S, SLOW_REPEATS = 0.1, 3


def seconds(run: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Of each of some calls, after two that compile and take memory; of slow ones fewer."""
    first = _seconds(run, device, 2)
    return _seconds(run, device, min(repeats, SLOW_REPEATS) if min(first) > SLOW_S else repeats)


def _seconds(run: Callable[[], Any], device: str, repeats: int) -> list[float]:
    if device == "cpu":
        return [_wall(run) for _ in range(repeats)]
    torch.cuda.synchronize()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    torch.cuda._sleep(AHEAD)
    for start, end in marks:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in marks]


def _wall(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def copy_speed(device: str, elements: int) -> dict[str, float]:
    """Bytes read and written a second by torch's copy_, of this many float32: the median of many copies, and the best."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    taken = seconds(lambda: target.copy_(source), device, 20)
    return {"median": 8 * elements / median(taken), "best": 8 * elements / min(taken)}


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    if device == "cpu":
        return {"device": "Triton's interpreter on a CPU: says nothing about speed"}
    found = torch.cuda.get_device_properties(0)
    return {"device": found.name, "multiprocessors": found.multi_processor_count, "memory": found.total_memory, "L2": found.L2_cache_size}
