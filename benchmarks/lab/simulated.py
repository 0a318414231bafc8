"""A simulated link inside the process, for machines without root: `LocalGroup` whose moves take as long as a topology says.

No byte crosses a network and no kernel counts one: every number made with it is labelled "simulated". It shows what rate, queue, delay and
loss do to a round. It knows no congestion control, so a real TCP is slower where packets are lost; and members send to each other
directly, where gloo's all-gather goes round a ring: the same bytes, other delays.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks.lab.queueing import Delivered, Network, Sent, deliver
from benchmarks.lab.topology import Topology
from thinwire.comms.local import LocalGroup, _Hub, _LocalLink, _Move
from thinwire.comms.rounds import Arrivals


@dataclass
class _TimedMove(_Move):
    """A move with what each member handed over when, and when everything will be there."""

    posted: dict[int, tuple[float, int]] = field(default_factory=dict)  # seconds and bytes to each other member
    deadline: float = float("inf")
    complete_s: dict[int, float] = field(default_factory=dict)


class _TimedHub(_Hub):
    """Decides a move as threads do, then lets each member wait until its frames would have arrived."""

    def __init__(self, network: Network, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        super().__init__(len(network.topology.regions))
        self.network, self._now, self._sleep = network, now, sleep
        self.sent_nbytes, self.received_nbytes = [0] * len(self.present), [0] * len(self.present)

    def all_gather(self, at: tuple[int, int], member: int, message: Tensor, deadline: float) -> Arrivals:
        with self.condition:
            move = self.moves.setdefault(at, _TimedMove()) if at > self.forgotten else _TimedMove()
            assert isinstance(move, _TimedMove)
            if move.decided is None:
                move.posted[member] = self._now(), message[-1].nbytes if message.dim() == 2 else message.nbytes
                move.deadline = min(move.deadline, deadline)
        arrivals = super().all_gather(at, member, message, deadline)
        left_s = move.complete_s.get(member, 0.0) - self._now()
        if left_s > 0:
            self._sleep(left_s)
        return arrivals

    def _decide(self, move: _Move) -> None:
        assert isinstance(move, _TimedMove)
        for (src, dst), delivered in self._deliver(move).items():
            if delivered.at_s > move.deadline:  # too late for one is too late for all: they decide alike
                move.frames.pop(src, None)
            move.complete_s[dst] = min(max(move.complete_s.get(dst, 0.0), delivered.at_s), move.deadline)
        super()._decide(move)
        self.asleep -= move.posted.keys()  # who was slow is awake

    def _deliver(self, move: _TimedMove) -> dict[tuple[int, int], Delivered]:
        there = sorted(move.posted)
        streams = [Sent(at_s, src, dst, nbytes) for src, (at_s, nbytes) in move.posted.items() for dst in there if dst != src]
        delivered = deliver(self.network, streams)
        for (src, dst), carried in delivered.items():
            self.sent_nbytes[src] += carried.sent_nbytes
            self.received_nbytes[dst] += carried.received_nbytes
        return delivered


@dataclass
class _SimulatedLink(_LocalLink):
    """Sums go by shards, as over a network: bytes cost something here."""

    sharded: bool = True

    def all_to_all(self, messages: Tensor) -> Arrivals:
        place = self.members.index(self.rank)
        arrivals = self.move(messages)
        self.group._count(messages.shape[1], len(arrivals) - 1)
        return {member: stack if isinstance(stack, str) else stack[place] for member, stack in arrivals.items()}


class SimulatedGroup(LocalGroup):
    """A member of a group of threads with a simulated network between them; make all of them with `SimulatedGroup.world(topology)`.

    `wire_sent_nbytes` and `wire_received_nbytes` are what its link would have carried: packets of 1500 bytes, retransmissions counted,
    acknowledgements not.

    >>> a, b = SimulatedGroup.world(Topology.uniform(2, mbit=100, rtt_ms=2))
    >>> a.describe().trust
    'simulated'
    >>> a.leave(), b.leave()
    (None, None)
    """

    trust = "simulated"
    _hub: _TimedHub

    @classmethod
    def world(  # type: ignore[override]
        cls,
        topology: Topology,
        *,
        seed: int = 0,
        run: int = 0,
        timeout_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> "list[SimulatedGroup]":
        """A member for each region of `topology`, each for one thread; `seed` draws jitter and loss."""
        hub = _TimedHub(Network(topology, seed=seed), now, sleep)
        n = len(topology.regions)
        return [cls(hub, rank, n, run=run, timeout_s=timeout_s) for rank in range(n)]

    @property
    def wire_sent_nbytes(self) -> int:
        """Bytes of packets that this member's uplink carried so far."""
        return self._hub.sent_nbytes[self.rank]

    @property
    def wire_received_nbytes(self) -> int:
        """Bytes of packets that this member's downlink carried so far."""
        return self._hub.received_nbytes[self.rank]

    def _link(self, seq: int, deadline: float) -> _SimulatedLink:
        return _SimulatedLink(self, seq, deadline, self.members)
