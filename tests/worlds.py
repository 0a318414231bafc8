"""Worlds to test groups in: threads that share a `LocalGroup`, or forked ranks in the environment that torchrun would give."""

import multiprocessing as mp
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch.distributed import FileStore, TCPStore

from thinwire.comms.local import LocalGroup

_context = mp.get_context("forkserver")
PRELOADED = ("torch", "torch.distributed", "pytest", "thinwire", "tests.worlds")
_context.set_forkserver_preload(list(PRELOADED))


def preload(*modules: str) -> None:
    """Have ranks find these imported too, if none was started yet; those that are not installed are left out."""
    _context.set_forkserver_preload([*PRELOADED, *modules])


def run_threads(n: int, work: Callable[..., Any], *args: Any, timeout_s: float | None = 20.0) -> list[Any]:
    """`work(group, *args)` on each of `n` members of a `LocalGroup`; their results in member order, or the first exception."""
    groups = LocalGroup.world(n, timeout_s=timeout_s)
    try:
        with ThreadPoolExecutor(n) as pool:
            return [future.result() for future in [pool.submit(work, group, *args) for group in groups]]
    finally:
        for group in groups:
            group.leave()


def run_ranks(
    n: int,
    work: Callable[..., Any],
    *args: Any,
    killed: Collection[int] = (),
    agent_store: bool = True,
    deadline_s: float = 60.0,
) -> list[Any]:
    """`work(rank, *args)` in `n` processes with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT set; their results in rank order.

    Ranks in `killed` die by a signal or stop, and are not waited for; their result is None. With `agent_store` the store lives in
    this process, as torchrun's agent would keep it. Raises `RuntimeError` with a rank's traceback when it fails, and
    `TimeoutError` at the deadline; no process is left behind.
    """
    with tempfile.TemporaryDirectory(prefix="thinwire-world-") as folder:
        return _run_ranks(n, work, args, killed, agent_store, time.monotonic() + deadline_s, os.path.join(folder, "keys"))


def _run_ranks(
    n: int, work: Callable[..., Any], args: tuple[Any, ...], killed: Collection[int], agent_store: bool, deadline: float, keys: str
) -> list[Any]:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    if not agent_store:
        del store
    procs, pipes = [], []
    try:
        for rank in range(n):
            ours, theirs = _context.Pipe(duplex=False)
            env = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(n),
                "LOCAL_WORLD_SIZE": str(n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_USE_AGENT_STORE": str(agent_store),
                "TORCHELASTIC_RESTART_COUNT": "0",
                "THINWIRE_TEST_KEYS": keys,
            }
            proc = _context.Process(target=_rank_main, args=(theirs, env, work, rank, args), daemon=True)
            proc.start()
            theirs.close()
            procs.append(proc)
            pipes.append(ours)
        return _collect(procs, pipes, set(killed), deadline)
    finally:
        for proc in procs:
            proc.kill()
            proc.join()


def wait_for_keys(*keys: str) -> None:
    """In a rank: block until other ranks have called `set_key` for all `keys`."""
    _test_keys().wait(list(keys))


def set_key(key: str) -> None:
    """In a rank: let `wait_for_keys` of other ranks go on."""
    _test_keys().set(key, "1")


def thinwire_threads() -> list[str]:
    """Names of our threads that are alive in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("thinwire")]


def _test_keys() -> FileStore:
    # Not the store of the group: a new connection may keep that one busy for seconds, in a name server.
    return FileStore(os.environ["THINWIRE_TEST_KEYS"])


def _rank_main(pipe: Connection, env: dict[str, str], work: Callable[..., Any], rank: int, args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        said: tuple[bool, Any] = True, work(rank, *args)
    except BaseException:
        said = False, traceback.format_exc()
    pipe.send(said)


def _collect(procs: list[Any], pipes: list[Connection], killed: set[int], deadline: float) -> list[Any]:
    results: list[Any] = [None] * len(pipes)
    open_ = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in killed}
    while open_:
        ready = wait(list(open_), max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(f"ranks {sorted(open_.values())} did not finish in time")
        for pipe in ready:
            rank = open_.pop(pipe)  # type: ignore[index]
            try:
                fine, results[rank] = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                raise RuntimeError(f"rank {rank} died without a result") from None
            if not fine:
                raise RuntimeError(f"rank {rank} failed:\n{results[rank]}")
    for rank, proc in enumerate(procs):
        if rank in killed:
            continue
        proc.join(max(deadline - time.monotonic(), 0))
        if proc.exitcode != 0:
            raise RuntimeError(f"rank {rank} ended with {proc.exitcode} (None: it did not end)")
    return results
