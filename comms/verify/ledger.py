"""What was seen before, in bounded memory: a rollout that comes again, and tokens that another worker has committed to first.

Numbers of a worker slide as in an anti-replay window (RFC 4303, section 3.4.3): what has fallen out of the window is refused, so that
forgetting never lets a replay through. Contents are kept for each worker apart, so that one that floods displaces only its own.

Two workers may honestly sample the same few tokens. Tokens count as copied only when sampling them again is less likely than 2^-`BITS`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

WINDOW = 4096  # numbers, and contents, of a worker
WORKERS = 4096
BITS = 32.0


@dataclass(frozen=True)
class Sighting:
    """`kind`: "new", "replay" (the number or the tokens again, by the same worker), "old" (below the window), "copy" (of `other`, that
    committed first) or "copied" (this one committed first; `other` was seen first, and has copied)."""

    kind: str
    other: bytes = b""

    @property
    def fresh(self) -> bool:
        """Whether the rollout may count."""
        return self.kind in ("new", "copied")


@dataclass
class _Worker:
    highest: int = -1
    numbers: set[int] = field(default_factory=set)
    contents: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)


class Ledger:
    """Remembers at most `workers` workers, the one longest unheard of forgotten first, with `window` rollouts each."""

    def __init__(self, *, window: int = WINDOW, workers: int = WORKERS, bits: float = BITS) -> None:
        if window < 1 or workers < 1:
            raise ValueError(f"window is {window}, workers {workers}; give 1 or more")
        self._window, self._limit, self._bits = window, workers, bits
        self._workers = OrderedDict[bytes, _Worker]()
        self._first = dict[bytes, tuple[int, bytes]]()

    def see(self, worker: bytes, n: int, tokens: bytes, *, order: int, bits: float) -> Sighting:
        """Note a rollout that opened its commitment. `tokens` is their `content`, `order` when the commitment came, `bits` what it would
        take to sample them again: the sum of -log2 of their probabilities."""
        known = self._known(worker)
        if n in known.numbers:
            return Sighting("replay", worker)
        if n <= known.highest - self._window:
            return Sighting("old", worker)
        known.numbers.add(n)
        if n > known.highest:
            known.highest = n
            known.numbers = {each for each in known.numbers if each > n - self._window}
        return self._content(worker, known, tokens, order) if bits >= self._bits else Sighting("new")

    def _content(self, worker: bytes, known: _Worker, tokens: bytes, order: int) -> Sighting:
        before = self._first.get(tokens)
        if before is not None and before[1] == worker:
            return Sighting("replay", worker)
        if before is not None and before[0] < order:
            return Sighting("copy", before[1])
        if before is not None:
            self._workers[before[1]].contents.pop(tokens)
        self._first[tokens] = order, worker
        known.contents[tokens] = None
        if len(known.contents) > self._window:
            del self._first[known.contents.popitem(last=False)[0]]
        return Sighting("new") if before is None else Sighting("copied", before[1])

    def _known(self, worker: bytes) -> _Worker:
        known = self._workers.setdefault(worker, _Worker())
        self._workers.move_to_end(worker)
        if len(self._workers) > self._limit:
            _, forgotten = self._workers.popitem(last=False)
            for tokens in forgotten.contents:
                del self._first[tokens]
        return known

    def __len__(self) -> int:
        return sum(len(known.numbers) + len(known.contents) for known in self._workers.values())
