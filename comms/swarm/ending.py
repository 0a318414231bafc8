"""Tasks that are to end, and do."""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 1.0  # time for what a task does in its `finally`


async def end(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancel all, and return when they have ended; what they raise is not raised here.

    Once is not enough: before Python 3.12 `asyncio.wait_for` swallows a cancellation that comes in the moment of its result, and a task
    that works in a loop would then go on for ever.
    """
    every = set(tasks)
    while left := {task for task in every if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)
    for task in every:
        if not task.cancelled():
            task.exception()  # else asyncio reports it as never looked at
