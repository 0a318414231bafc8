"""All-or-none decisions over a torch store: one word for each exchange of one generation, written once by compare_set.

A generation is a fixed list of members. Keys, under a prefix of the group (g: generation, s: exchange, m: member):

    g/h{s}   who had all the data: a counter, with a fingerprint of the data in its upper bits
    g/d{s}   the decision: "c" commit, "r<why>" try again in the next generation, "f<why>" failed for everybody
    g/b{m}   the bell of a member: the generation is over; a blocked wait on it costs no traffic
    g/a{m}   a member is alive (or gone) when the generation ends
    g/left   somebody has left
    g/m      the members of the next generation

An exchange commits only after all members had the same data; the store applies one request at a time, so no two members can read
different decisions. 2 keys an exchange, about 30 bytes each, deleted two exchanges later.

Torch's own wait is used only where it never runs out: one that does looks up the name of its address for the log, and where no name
server answers that takes 5 s or more, on the connection that has to say what was decided.
"""

import json
import time
from dataclasses import dataclass, field
from datetime import timedelta

from torch.distributed import DistStoreError, Store

from thinwire.comms.rounds import LATE

COMMIT, RETRY, FAIL = "c", "r", "f"
_GONE = "gone"
_FOREVER = timedelta(days=1)
_NEAR_S = 0.005  # a round trip to the store below this is none
_SOON_S, _PAUSE_S = 0.0005, 0.1  # between two questions; an eighth of the wait so far, within these


@dataclass(frozen=True)
class Bell:
    """Why a generation ended: the exchange that did not commit, and the decision about it."""

    seq: int
    ruling: str


@dataclass(frozen=True)
class Census:
    """Who goes on: `members`, who does not and why, and who is alive but had not begun the exchange."""

    members: tuple[int, ...]
    gone: dict[int, str] = field(default_factory=dict)
    late: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arbiter:
    """The decisions of one generation, through one store connection (each thread needs its own: a blocked wait locks it).

    Methods raise what the store raises (`RuntimeError`) when it is gone.
    """

    store: Store
    generation: int
    rank: int
    members: tuple[int, ...]

    def vote(self, seq: int, fingerprint: int, deadline: float, otherwise: str = FAIL) -> str:
        """This member has all the data of exchange `seq`; returns the decision: at `deadline` (monotonic) it is `otherwise`.

        Who is far from the store asks for the decision alone, a round trip each time; who is near also for the votes, and decides for
        a last voter whose word would still be on its way.
        """
        ballot = 1 + ((fingerprint & 0xFFFFFFFF) << 16)
        n = len(self.members)
        began = time.monotonic()
        count = self.store.add(self._key("h", seq), ballot)
        near = time.monotonic() - began < _NEAR_S
        while count & 0xFFFF != n:
            ruling = self.rule(seq, "")
            if ruling:
                return ruling
            now = time.monotonic()
            if now >= deadline:
                return self.rule(seq, otherwise + "a member did not confirm that it has the data")
            time.sleep(min(max((now - began) / 8, _SOON_S), _PAUSE_S, deadline - now))
            count = self.store.add(self._key("h", seq), 0) if near else 0
        same = count == n * ballot  # a frame damaged on one path would leave replicas different
        return self.rule(seq, COMMIT if same else FAIL + "members received different bytes")

    def rule(self, seq: int, wish: str) -> str:
        """Decide exchange `seq`, unless it is decided; returns the decision: with an empty wish "" when there is none yet."""
        return str(self.store.compare_set(self._key("d", seq), "", wish).decode())

    def ring(self, seq: int, ruling: str) -> None:
        """Tell every member that the generation is over."""
        for member in self.members:
            self.store.set(self._key("b", member), f"{seq} {ruling}")

    def listen(self) -> Bell:
        """Block, without traffic, until the generation is over."""
        while True:
            try:
                self.store.wait([self._key("b", self.rank)], _FOREVER)
                break
            except DistStoreError:
                pass
        seq, _, ruling = self.store.get(self._key("b", self.rank)).decode().partition(" ")
        return Bell(int(seq), ruling)

    def part(self) -> None:
        """Say that this member leaves, and wake its own listener."""
        self.store.set(self._key("a", self.rank), _GONE)
        self.store.set(f"{self.generation}/left", str(self.rank))
        self.store.set(self._key("b", self.rank), f"-1 {FAIL}left")

    def somebody_left(self) -> bool:
        """Whether a member has left since the generation began."""
        return bool(self.store.check([f"{self.generation}/left"]))

    def linger(self, timeout_s: float) -> None:
        """Wait until all members have left or the generation is over: who hosts the store goes last."""
        self._wait([self._key("a", member) for member in self.members], timeout_s)

    def census(self, bell: Bell, started: int, grace_s: float) -> Census:
        """Say that this member is alive and has `started` so many exchanges; returns the list all members agree on."""
        mine = self._key("a", self.rank)
        if not self.store.check([mine]):
            self.store.set(mine, str(started))
        self._wait([self._key("a", member) for member in self.members], grace_s)
        said = {m: self._said(m) for m in self.members}
        alive = [m for m, word in said.items() if word not in (None, _GONE)]
        gone = {m: "gave no sign of life" if word is None else "has left" for m, word in said.items() if m not in alive}
        late = [m for m in alive if int(said[m] or 0) <= bell.seq]
        proposal = json.dumps([alive, [[m, why] for m, why in gone.items()], late], separators=(",", ":"))
        alive, gone_pairs, late = json.loads(self.store.compare_set(f"{self.generation}/m", "", proposal))
        return Census(tuple(alive), {m: why for m, why in gone_pairs}, dict.fromkeys(late, LATE))

    def tidy(self, seq: int) -> None:
        """Forget exchange `seq`, which everybody has read."""
        self.store.delete_key(self._key("h", seq))
        self.store.delete_key(self._key("d", seq))

    def _said(self, member: int) -> str | None:
        key = self._key("a", member)
        return self.store.get(key).decode() if self.store.check([key]) else None

    def _wait(self, keys: list[str], timeout_s: float) -> bool:
        """Whether all `keys` are there within `timeout_s`; noticed at most an eighth of the wait later than they are."""
        began = time.monotonic()
        while not self.store.check(keys):
            waited = time.monotonic() - began
            if waited >= timeout_s:
                return False
            time.sleep(min(max(waited / 8, _SOON_S), _PAUSE_S, timeout_s - waited))
        return True

    def _key(self, kind: str, number: int) -> str:
        return f"{self.generation}/{kind}{number}"
