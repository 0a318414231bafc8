"""Many machines in one process, in simulated time: the production state machine over a modelled network, with faults.

    report = simulate(seed=7, members=4, events=[(3.0, "crash", 1), (5.0, "restart", 1)], seconds=20)
    report.check()

One seed, one run: every latency, loss and computing time comes from it, and `report.trace` is the hash of all that happened. What the
protocol promises is checked at every decision; `Report.write` gives the history that `thinwire verify` reads. Kinds of events, with
members by their index (any index founds or joins the run at its event; those below `members` are there from the beginning):

    crash i, restart i        kill -9, links end at once; a new incarnation that joins
    pause i, resume i         SIGSTOP, SIGCONT
    leave i, join i           orderly
    slow i factor             its computing takes that many times longer
    cut a b, mend a b         no message from a to b (one way), until mended
    part a b c ..., heal      these against all others, both ways; all cuts mended
    flap i                    its links end, and stand again a moment later
    poor i via                it sends its payload to one member only, which passes it on
    kill_leader state         the next leader dies in that state: see TRAPS
"""

import hashlib
import heapq
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from thinwire.comms.swarm.deadline import DEFAULT, Timing
from thinwire.comms.swarm.decision import Decision, Standing
from thinwire.comms.swarm.effects import Push, Send, Want
from thinwire.comms.swarm.messages import Accept, Have, Message, Prepare, Promise, Propose, pack
from thinwire.comms.swarm.simnode import Node
from thinwire.comms.swarm.view import Key, Slot

Event = tuple[Any, ...]  # at, kind, arguments
TRAPS = ("have", "propose-none", "propose-half", "propose", "accept", "decided", "prepare", "promise")
HANG_S = 10.0


@dataclass(frozen=True)
class Net:
    """The modelled network; seconds and bytes a second.

    - `loss`, `duplicate`: of control messages; `ordered`: whether those of one pair keep their order.
    - `end_s`: until the end of a process is noticed at its peers; `cut_s`: until a cut is, or None: never.
    - `held`: what is sent into a cut arrives when it is mended, if the link still stands (TCP sends it again), instead of being lost.
    """

    latency_s: float = 0.01
    jitter_s: float = 0.002
    loss: float = 0.0
    duplicate: float = 0.0
    ordered: bool = True
    bandwidth: float = float("inf")
    end_s: float = 0.005
    cut_s: float | None = None
    held: bool = False


@dataclass
class Report:
    """What happened. `latencies_s`: from the last start of a payload that counts to the decision, at every member."""

    seed: int
    seconds: float
    rounds: int = 0
    decisions: int = 0
    forks: int = 0
    rejoins: int = 0
    latencies_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)  # between decisions of one member that could have gone on
    messages: dict[Key, int] = field(default_factory=dict)
    nbytes: dict[Key, int] = field(default_factory=dict)  # of control messages sent
    refused: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # promises
    events: list[Event] = field(default_factory=list)  # as they happened
    trace: str = ""
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # history by incarnation

    def check(self) -> None:
        """Raises `AssertionError` with what was broken."""
        assert not self.broken, f"seed {self.seed}: {self.broken[:5]}"

    def write(self, folder: Path) -> None:
        """The history as JSONL, one file an incarnation."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in self.lines.items():
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text)


class World:
    """Processes, links between them, and time."""

    def __init__(
        self, report: Report, net: Net, *, timing: Timing, split: str, compute_s: float, adopt_s: float, nbytes: int, keep: bool
    ) -> None:
        self.report, self.net, self.timing, self.split = report, net, timing, split
        self.compute_s, self.adopt_s, self.nbytes, self.keep = compute_s, adopt_s, nbytes, keep
        self.random = random.Random(report.seed)
        self.now = 0.0
        self.trace = hashlib.sha256()
        self.nodes: list[Node] = []
        self.by_key: dict[Key, Node] = {}
        self.cuts: set[tuple[int, int]] = set()
        self.last_start: dict[tuple[Slot, Key], float] = {}
        self.decided: dict[tuple[bytes, Slot], Decision] = {}
        self.calm_since = 0.0
        self.trap: str | None = None
        self._links: set[frozenset[int]] = set()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._arrival: dict[tuple[int, int], float] = {}
        self._held: dict[tuple[int, int], list[Callable[[], None]]] = {}  # sent into a cut

    def node(self, index: int) -> Node:
        """The process with this index."""
        while len(self.nodes) <= index:
            node = Node(self, len(self.nodes))
            self.nodes.append(node)
            self.by_key[node.key] = node
        return self.nodes[index]

    def grow(self, members: int) -> None:
        """All begin as members of one view."""
        pairs = sorted((node.key, node) for node in self.nodes[:members])
        for _, node in pairs:
            node.live()
        standing = Standing(
            0, bytes(16), Slot(0), bytes(32), 0, tuple(key for key, _ in pairs), tuple(node.nonce for _, node in pairs)
        )  # fmt: skip
        for _, node in pairs:
            node.adopted(node.incarnation, standing, b"state 0")

    # -- time --------------------------------------------------------------------------------------------------------------------

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Do something then."""
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self.at(self.now + seconds, act)

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, act = heapq.heappop(self._queue)
            act()
        self.now = until

    # -- the network -------------------------------------------------------------------------------------------------------------

    def connected(self, a: Node, b: Node) -> bool:
        """Whether what a sends reaches b."""
        return a.alive and b.alive and (a.index, b.index) not in self.cuts

    def delay(self, a: Node, b: Node) -> float:
        """Seconds that a message takes."""
        seconds = self.net.latency_s + self.random.uniform(0, self.net.jitter_s)
        if self.net.ordered:
            pair = a.index, b.index
            arrival = max(self.now + seconds, self._arrival.get(pair, 0.0))
            self._arrival[pair] = arrival
            return arrival - self.now
        return seconds

    def send(self, node: Node, effect: Send) -> None:
        """A control message to some."""
        to = effect.to
        if self.trap is not None:
            to = self._spring(node, effect)
        nbytes, nonce, incarnation = len(pack(effect.message)), node.nonce, node.incarnation
        report = self.report
        for key in to:
            other = self.by_key[key]
            report.messages[node.key] = report.messages.get(node.key, 0) + 1
            report.nbytes[node.key] = report.nbytes.get(node.key, 0) + nbytes
            deliver = partial(self._deliver, node, incarnation, nonce, other, effect.message)
            if self.net.held and (node.index, other.index) in self.cuts and self.linked(node, other):
                self._held.setdefault((node.index, other.index), []).append(deliver)
            if not self.connected(node, other) or self.random.random() < self.net.loss:
                continue
            for _ in range(2 if self.random.random() < self.net.duplicate else 1):
                self.after(self.delay(node, other), deliver)

    def _deliver(self, a: Node, incarnation: int, nonce: bytes, b: Node, message: Message) -> None:
        if self.connected(a, b) and a.incarnation - incarnation <= 1:
            if self.trap == "have" and isinstance(message, Have) and b.machine is not None and b.machine.view.index(a.key) is not None:
                self._die(b)
            b.feed(lambda machine, now: machine.receive(a.key, nonce, message, now))

    def push(self, a: Node, b: Node, effect: Push) -> None:
        """A payload to one."""
        a.uplink = max(a.uplink, self.now) + self.nbytes / self.net.bandwidth
        incarnation = b.incarnation
        self.at(a.uplink + self.net.latency_s, lambda: self._land(a, b, incarnation, effect.slot, effect.key, effect.digest))

    def _land(self, a: Node, b: Node, incarnation: int, slot: Slot, key: Key, digest: bytes) -> None:
        if self.connected(a, b) and digest not in b.blobs and b.incarnation == incarnation:
            b.blobs.add(digest)
            b.feed(lambda machine, now: machine.holds(slot, key, digest, self.nbytes, now))

    def fetch(self, node: Node, want: Want) -> None:
        """Get a payload from somebody who has it: the first of the holders that can."""
        if want.digest in node.blobs:
            self.after(0, lambda: node.feed(lambda machine, now: machine.holds(want.slot, want.key, want.digest, self.nbytes, now)))
            return
        holders = [self.by_key[key] for key in want.holders if want.digest in self.by_key[key].blobs]
        holders = [other for other in holders if self.connected(other, node) and self.connected(node, other) and not other.paused]
        if holders:
            incarnation = node.incarnation
            took = 3 * self.net.latency_s + self.nbytes / self.net.bandwidth
            self.after(took, lambda: self._land(holders[0], node, incarnation, want.slot, want.key, want.digest))

    def stand(self, node: Node) -> None:
        """A process lives: it connects to all others."""
        self._links = {pair for pair in self._links if node.index not in pair}
        for other in self.nodes:
            self.after(2 * self.net.latency_s, lambda o=other: self._connect(node, o))  # type: ignore[misc]

    def _connect(self, a: Node, b: Node) -> None:
        pair = frozenset((a.index, b.index))
        if a is not b and pair not in self._links and self.connected(a, b) and self.connected(b, a):
            self._links.add(pair)
            a.meet(b)
            b.meet(a)

    def nobody_before(self, node: Node) -> bool:
        """Whether everybody has died, and this is the first of those who come back: it begins again."""
        return not any(other.alive and (other.machine is not None or other.index < node.index) for other in self.nodes)

    def linked(self, a: Node, b: Node) -> bool:
        """Whether a link stands, cut or not."""
        return frozenset((a.index, b.index)) in self._links

    def _end(self, a: Node, b: Node) -> None:
        for pair in ((a.index, b.index), (b.index, a.index)):
            self._held.pop(pair, None)
        self._links.discard(frozenset((a.index, b.index)))
        a.feed(lambda machine, now: machine.down(b.key, now))
        b.feed(lambda machine, now: machine.down(a.key, now))

    # -- faults ------------------------------------------------------------------------------------------------------------------

    def happen(self, kind: str, *args: Any) -> None:
        """A fault, or its end."""
        self.report.events.append((round(self.now, 6), kind, *args))
        self.trace.update(repr(self.report.events[-1]).encode())
        self.calm_since = self.now
        getattr(self, f"_do_{kind}")(*args)

    def _die(self, node: Node) -> None:
        self.trap = None
        self.happen("crash", node.index)

    def _do_crash(self, i: int) -> None:
        node = self.node(i)
        node.alive = node.paused = False
        for other in self.nodes:
            if self.linked(node, other):
                self.after(self.net.end_s, lambda o=other: self._end(node, o))  # type: ignore[misc]

    def _do_restart(self, i: int) -> None:
        if not self.node(i).alive:
            self.after(2 * self.net.end_s, self.node(i).join)

    def _do_join(self, i: int) -> None:
        self._do_restart(i)

    def _do_leave(self, i: int) -> None:
        node = self.node(i)
        if node.alive:
            node.leaving = True
            node.feed(lambda machine, now: machine.leave(now))
            incarnation = node.incarnation
            self.after(2 * self.compute_s, lambda: self._do_crash(i) if node.incarnation == incarnation else None)

    def _do_pause(self, i: int) -> None:
        self.node(i).paused = self.node(i).alive

    def _do_resume(self, i: int) -> None:
        node = self.node(i)
        if node.paused:
            node.paused = False
            backlog, node.backlog = node.backlog, []
            for act in backlog:
                act()

    def _do_slow(self, i: int, factor: float) -> None:
        self.node(i).slowness = factor

    def _do_poor(self, i: int, via: int) -> None:
        self.node(i).via = self.node(via).key

    def _do_cut(self, a: int, b: int) -> None:
        self.cuts.add((a, b))
        if self.net.cut_s is not None:
            self.after(self.net.cut_s, lambda: self._notice(a, b))

    def _notice(self, a: int, b: int) -> None:
        if (a, b) in self.cuts and self.linked(self.node(a), self.node(b)):
            self._end(self.node(a), self.node(b))

    def _do_mend(self, a: int, b: int) -> None:
        self.cuts.discard((a, b))
        for deliver in self._held.pop((a, b), ()):
            self.after(self.delay(self.node(a), self.node(b)), deliver)
        self._connect(self.node(a), self.node(b))

    def _do_part(self, *side: int) -> None:
        for a in side:
            for other in self.nodes:
                if other.index not in side:
                    self._do_cut(a, other.index)
                    self._do_cut(other.index, a)

    def _do_heal(self) -> None:
        for a, b in sorted(self.cuts):
            self._do_mend(a, b)

    def _do_flap(self, i: int) -> None:
        node = self.node(i)
        for other in self.nodes:
            if self.linked(node, other):
                self._end(node, other)
                self.after(0.2, lambda o=other: self._connect(node, o))  # type: ignore[misc]

    def _do_kill_leader(self, state: str) -> None:
        self.trap = state

    def _spring(self, node: Node, effect: Send) -> tuple[Key, ...]:
        """Whether this is the moment for the leader to die; who gets its last message."""
        kinds = {"propose": Propose, "propose-half": Propose, "propose-none": Propose, "prepare": Prepare}
        message, trap = effect.message, self.trap
        if trap in kinds and isinstance(message, kinds[trap]):
            self._die(node)
            return effect.to if trap in ("propose", "prepare") else effect.to[: len(effect.to) // 2] if trap == "propose-half" else ()
        if trap in ("accept", "promise") and isinstance(message, Accept if trap == "accept" else Promise):
            self.trap = None
            leader = self.by_key[effect.to[-1]]
            self.after(0, lambda: self.happen("crash", leader.index) if leader.alive else None)
        return effect.to

    # -- what was promised -------------------------------------------------------------------------------------------------------

    def judge(self, node: Node, decision: Decision) -> None:
        """Check a decision against all others, and against what its member has been through."""
        broken, slot = self.report.broken, decision.slot
        before = self.decided.get((decision.epoch.digest, Slot(slot.round - 1))) if slot.round and self.trap == "decided" else None
        if before is not None and before.view.leader(slot.round + decision.ballot) == node.key:
            self._die(node)
        known = self.decided.setdefault((decision.epoch.digest, slot), decision)
        if known is decision:
            self.report.rounds += 1
        elif known != decision or known.skipped != decision.skipped:
            broken.append(f"{slot} was decided twice in one epoch: {known} and {decision}")
        if node.last is not None and slot != Slot(node.last.round + 1):
            broken.append(f"member {node.index} applied {slot} after {node.last}")
        for key, digest, _ in decision.counted:
            owner = self.by_key[key]
            if digest not in {owner.started.get((slot, i)) for i in range(owner.incarnation + 1)}:
                broken.append(f"{slot} counts a payload that member {owner.index} never had")
            if digest not in node.blobs:
                broken.append(f"member {node.index} applied {slot} without a payload")
        started = [self.last_start.get((slot, key), self.now) for key, _, _ in decision.counted]
        self.report.latencies_s.append(self.now - max(started))
        self.report.gaps_s.append(self.now - node.lived)
        self.report.decisions += 1
        node.last, node.lived = slot, self.now

    def watch(self) -> None:
        """Once a second: nobody that could go on has waited too long."""
        self.after(1.0, self.watch)
        if self.cuts or any(node.paused for node in self.nodes):
            self.calm_since = self.now
        for node in self.nodes:
            waited = self.now - max(node.lived, self.calm_since)
            if node.alive and waited > HANG_S + 4 * self.compute_s * max(n.slowness for n in self.nodes if n.alive):
                where = node.machine.next_slot if node.machine else None
                self.report.broken.append(f"{self.now:.1f} s: member {node.index} has waited {waited:.1f} s at {where}")
                node.lived = self.now

    def together(self) -> None:
        """At the end: all that live are members of one group, in the same epoch."""
        alive = [node for node in self.nodes if node.alive and not node.leaving]
        epochs = {node.machine.epoch for node in alive if node.machine}
        strangers = [node.index for node in alive if not node.machine or not node.machine.is_member]
        if len(epochs) > 1 or strangers:
            self.report.broken.append(f"at the end there are {len(epochs)} lineages, and {strangers} are no members")


def simulate(
    *, seed: int, members: int, events: Sequence[Event] = (), seconds: float = 30.0, net: Net = Net(), timing: Timing = DEFAULT,
    split: str = "continue", compute_s: float = 0.3, adopt_s: float = 0.2, nbytes: int = 100_000, keep: bool = True, whole: bool = True,
    grown: bool = False,
) -> Report:  # fmt: skip
    """Run members with faults for so many simulated seconds.

    `whole`: at the end all must be members of one group again; `keep` the history; `grown`: all are members from the beginning.
    """
    report = Report(seed, seconds)
    world = World(report, net, timing=timing, split=split, compute_s=compute_s, adopt_s=adopt_s, nbytes=nbytes, keep=keep)
    world.node(max([members - 1, *(e[2] for e in events if e[1] in ("join", "restart"))]))
    if grown:
        world.grow(members)
    else:
        world.nodes[0].found()
        for node in world.nodes[1:members]:
            world.at(0.001 * node.index, node.join)
    for when, kind, *args in events:
        world.at(when, lambda kind=kind, args=args: world.happen(kind, *args))  # type: ignore[misc]
    world.watch()
    world.run(seconds)
    if whole:
        world.together()
    report.forks = len({epoch for epoch, _ in world.decided}) - 1
    for node in world.nodes:
        for why, count in node.machine.counts.items() if node.machine else ():
            report.refused[why] = report.refused.get(why, 0) + count
    report.trace = world.trace.hexdigest()
    return report
