"""The thread of a swarm's event loop: who waits for it is never left waiting."""

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from thinwire.comms.swarm.loop import LoopThread


def test_what_runs_there_gives_its_result() -> None:
    loop = LoopThread("test")

    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    assert loop.submit(answer()).result(5) == 7
    loop.close()


def test_nobody_waits_for_a_loop_that_has_ended_whatever_was_under_way() -> None:
    loop, begun = LoopThread("test"), threading.Event()

    async def lingers() -> None:
        begun.set()
        try:
            await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))
        finally:
            for _ in range(100):  # more turns of the loop than its end waits for
                await asyncio.sleep(0)

    waiting = loop.submit(lingers())
    assert begun.wait(5)
    loop.close()
    with pytest.raises(CancelledError):
        waiting.result(5)
