"""The thread in which a swarm's event loop runs, and the way in from other threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread: training threads never run it, and it never waits for them."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._waited_for: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine there; cancelled when the loop ends first."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._waited_for.add(future)
        future.add_done_callback(self._waited_for.discard)
        return future

    def call(self, work: Callable[..., object], *args: object) -> None:
        """Call a function there, soon."""
        self.loop.call_soon_threadsafe(work, *args)

    def close(self, timeout_s: float = 5.0) -> None:
        """Cancel what still runs there, and end the thread."""
        if self.loop.is_closed():
            return

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=timeout_s / 2)  # some have more to do than to be cancelled
            self.loop.call_soon(self.loop.stop)

        asyncio.run_coroutine_threadsafe(end(), self.loop)
        self._thread.join(timeout_s)
        for future in list(self._waited_for):  # of tasks that did not end, or came too late to begin
            future.cancel()
        if not self._thread.is_alive():
            self.loop.close()
