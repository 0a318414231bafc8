"""The C++ library on many threads, called from many threads, in forked children; and the time that denormal numbers take."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.codecs import named
from tests.kernels.test_native_is_reference import program_of
from tests.kernels.test_native_misuse import equal
from thinwire.kernels import native
from thinwire.kernels.finish import Out
from thinwire.kernels.program import Program


def work(name: str, seed: int) -> tuple[Program, Tensor, Tensor]:
    plan = named(name).plan(40 if named(name).chunk else 1, named(name).chunk or 100_003)
    x = torch.randn(plan.rows * plan.chunk, generator=torch.Generator().manual_seed(seed))
    return program_of(plan), x.view(-1, 64) if plan.codec.side else x, torch.randn(plan.rows, plan.chunk)


@pytest.mark.parametrize("name", ["none", "int8", "topk", "dct-blockmax", "blockmax64-vote"])
def test_any_number_of_threads_gives_the_same(name: str) -> None:
    program, x, held = work(name, 1)
    wanted = native.encode(program, [x], held=held, threads=1)
    out = torch.empty(x.numel())
    native.decode(program, [wanted.payload] * 3, [x], Out(out), threads=1)
    broken = wanted.payload.clone()
    broken[-program.record :] = 255
    bad = native.check(program, broken, threads=1)
    for threads in (-3, 0, 2, 3, 64, 2**31 - 1):
        assert equal(native.encode(program, [x], held=held, threads=threads), wanted)
        again = torch.empty(x.numel())
        native.decode(program, [wanted.payload] * 3, [x], Out(again), threads=threads)
        assert torch.equal(again, out)
        assert native.check(program, broken, threads=threads) == bad
    tiles = torch.randn(50, 4096)
    assert torch.equal(native.dct_tiles(tiles, 64, threads=1), native.dct_tiles(tiles, 64, threads=64))


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    jobs = [work(name, seed) for seed in range(3) for name in ("int8", "topk", "dct-blockmax", "none")]
    wanted = [native.encode(program, [x], held=held, threads=1) for program, x, held in jobs]

    def call(number: int) -> bool:
        program, x, held = jobs[number % len(jobs)]
        made = native.encode(program, [x], held=held, threads=1 + number % 3)
        out, alone = torch.empty(x.numel()), torch.empty(x.numel())
        native.decode(program, [made.payload], [x], Out(out), threads=2)
        native.decode(program, [made.payload], [x], Out(alone), threads=1)
        return equal(made, wanted[number % len(jobs)]) and native.check(program, made.payload, threads=2) == -1 and torch.equal(out, alone)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(240)))


FORKING = """
import os, signal, sys, threading, torch
from thinwire.comms.recipes import codec
from thinwire.kernels import native

torch.set_num_threads(1)
program = codec("dct-topk").plan(64).program
x = torch.randn(64 * 64, 64)
wanted = native.encode(program, [x], threads=2)


def is_same():
    made = native.encode(program, [x], threads=2)
    return torch.equal(made.payload, wanted.payload) and torch.equal(made.kept, wanted.kept)


def threads():
    return len(os.listdir("/proc/self/task"))


def in_child(of_child):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        alone = threads() == 1
        good = is_same() and is_same() and alone and threads() == 2 and of_child()
        os._exit(0 if good else 3)
    return os.waitpid(child, 0)[1] == 0


assert threads() >= 2, "the pool was not used"
assert in_child(lambda: in_child(lambda: True)), "a child, and its child"
assert is_same(), "the parent's own pool"

# While another thread is in the library, its pool is in use.
stop = threading.Event()


def busy():
    while not stop.is_set():
        native.encode(program, [x], threads=2)


other = threading.Thread(target=busy)
other.start()
children = [in_child(lambda: True) for _ in range(20)]
stop.set()
other.join()
assert all(children), "a child forked during a call"
"""


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


# -- time --------------------------------------------------------------------------------------------------------------------------


def costs(*runs: Callable[[], object]) -> list[float]:
    """CPU seconds of each one's quickest run. They take turns: what else the machine does slows all of them."""
    least = [float("inf")] * len(runs)
    for _ in range(40):
        for i, run in enumerate(runs):
            start = time.thread_time()
            run()
            least[i] = min(least[i], time.thread_time() - start)
    return least


@pytest.mark.parametrize("name", ["int8", "sign", "topk", "dct-topk", "blockmax", "dct-blockmax64-vote", "bf16"])
def test_denormal_numbers_and_state_are_not_slower(name: str) -> None:
    program, x, held = work(name, 1)
    kept = torch.empty_like(held)

    def encoding(source: Tensor, state: Tensor) -> Callable[[], object]:
        return lambda: native.encode(program, [source], held=state, kept=kept, decay=0.999, threads=1)

    tiny, tiny_held = x * 1e-39, held * 1e-39
    sources = [(x, held), (x * 0, held * 0), (x, tiny_held), (tiny, held), (tiny, tiny_held)]
    usual, nothing, old, new, both = costs(*(encoding(source, state) for source, state in sources))
    assert old < 1.5 * usual + 2e-5
    assert new < 1.5 * usual + 2e-5
    assert both < 1.5 * max(usual, nothing) + 2e-5
