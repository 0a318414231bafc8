"""A link with a drop-tail queue in front, by arithmetic alone: the one rule of the relay's links and of the simulated ones."""

LEAST_QUEUE_NBYTES = 128 << 10
INF = float("inf")
_TIES = 1e-12


class Queue:
    """A link of `mbit` (None: no limit) with a queue in front that holds `queue_ms` of it, and never less than 128 KiB.

    Nothing here knows the time of day: whoever uses it says what time it is. `free_s` is when the link has sent all that it holds.

    >>> link = Queue(12, queue_ms=200)
    >>> [round(link.out(5.0, 1500), 6) for _ in range(2)]  # one after the other
    [5.001, 5.002]
    """

    __slots__ = ("free_s", "longest_s", "rate")

    def __init__(self, mbit: float | None, queue_ms: float) -> None:
        self.free_s = -INF
        self.shape(mbit, queue_ms)

    def shape(self, mbit: float | None, queue_ms: float) -> None:
        """Take over other limits; what is under way keeps its times."""
        self.rate = mbit * 125e3 if mbit else INF
        self.longest_s = max(queue_ms / 1e3, LEAST_QUEUE_NBYTES / self.rate)

    def out(self, now_s: float, nbytes: int, since_s: float | None = None) -> float | None:
        """When a packet that comes `now_s` has left, or None when the queue is full.

        The link may have begun with it at `since_s` already, when it came little by little, or when whoever asks is late.
        """
        begins = now_s if since_s is None else since_s
        if self.rate == INF:
            return begins
        if begins < self.free_s:
            begins = self.free_s
            if begins - now_s > self.longest_s + _TIES:
                return None
        self.free_s = left = begins + nbytes / self.rate
        return left

    def room_s(self, now_s: float) -> float:
        """The first moment from `now_s` on at which a packet would not be dropped."""
        return max(now_s, self.free_s - self.longest_s)
