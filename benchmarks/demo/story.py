"""What the peers of a demo have said and what was done to them, and the one sentence that it comes to. No clock of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.multiregion.region import dense_nbytes

MB = 1e6
STARTING, TRAINING, DEAD, HEALING, DONE = "starting", "training", "dead", "healing", "done"


@dataclass
class Peer:
    """One peer over all its incarnations; times are of the machine's monotonic clock."""

    state: str = STARTING
    round: int = -1
    steps: int = 0
    loss: float | None = None  # of training, smoothed
    curve: list[tuple[float, float]] = field(default_factory=list)  # when, loss
    own_sent: int = 0  # bytes by the count of this incarnation
    sent_before: int = 0
    counted: int | None = None  # bytes by the count of the network it is in
    sha256: str = ""
    last_round: int = -1
    final_loss: float | None = None

    @property
    def sent(self) -> int:
        """Bytes: IP packets where the network counts them, else messages by its own count."""
        return self.sent_before + self.own_sent if self.counted is None else self.counted


@dataclass
class Kill:
    """One kill -9 and what followed."""

    peer: int
    at: float
    next_round: float | None = None  # when the others had decided one without it
    born: float | None = None  # when its process was started again
    back: float | None = None  # when it held the state of the others
    first: tuple[str, int] | None = None  # epoch and number of the round that it took part in first
    same: bool | None = None  # whether what it held before that was what the others held, bit for bit


@dataclass
class Story:
    """`size` peers, numbered from 0 here and from 1 for people; `link` says what is between them, `began` is when all began to train."""

    size: int
    link: str
    sync_every: int
    peers: list[Peer] = field(init=False)
    began: float | None = None
    kill: Kill | None = None
    numel: int = 0
    _states: dict[tuple[str, int], dict[int, str]] = field(default_factory=dict)  # what peers held before a round

    def __post_init__(self) -> None:
        self.peers = [Peer() for _ in range(self.size)]

    # -- what happens --------------------------------------------------------------------------------------------------------------

    def start(self, at: float) -> None:
        """Everybody is there, and begins to train."""
        self.began = at

    def joined(self, number: int, at: float, numel: int) -> None:
        """It holds the state of the run."""
        self.numel = numel
        self.peers[number].state = TRAINING
        if self.kill and self.kill.peer == number and self.kill.back is None:
            self.kill.back = at

    def round(
        self, number: int, at: float, round: int, epoch: str, state: str, steps: int, loss: float, sent: int, heard: int
    ) -> None:  # fmt: skip
        """It has applied a round with the work of `heard` members; `state` is a hash of what it had held before that."""
        one, kill = self.peers[number], self.kill
        one.round, one.own_sent = round, sent
        if steps > one.steps:  # a newcomer follows the rounds that it missed before it trains
            one.steps, one.loss = steps, loss
            one.curve.append((at, loss))
        self._states.setdefault((epoch, round), {})[number] = state
        if kill and kill.back is not None and kill.same is None:
            self._compare(kill, number, (epoch, round))
        if kill and kill.peer != number and kill.next_round is None and at > kill.at and heard < self.size:
            kill.next_round = at  # one with the work of the dead was under way before

    def _compare(self, kill: Kill, number: int, key: tuple[str, int]) -> None:
        if kill.first is None and kill.peer == number:
            kill.first = key
        if kill.first is not None:
            held = self._states[kill.first]
            theirs = {state for other, state in held.items() if other != kill.peer}
            kill.same = theirs == {held[kill.peer]} if theirs else None

    def killed(self, number: int, at: float) -> None:
        """SIGKILL."""
        self.kill = Kill(number, at)
        self.peers[number].state = DEAD

    def born(self, number: int, at: float) -> None:
        """The killed one's process was started again."""
        one = self.peers[number]
        one.state, one.steps = HEALING, 0
        one.sent_before, one.own_sent = one.sent_before + one.own_sent, 0
        if self.kill:
            self.kill.born = at

    def ended(self, number: int, round: int, sha256: str, loss: float) -> None:
        """These are its weights after the last round, and their loss on text that nobody trained on."""
        one = self.peers[number]
        one.state, one.last_round, one.sha256, one.final_loss = DONE, round, sha256, loss

    def counted(self, nbytes: Sequence[int]) -> None:
        """Bytes that the network has counted so far, by peer."""
        for one, count in zip(self.peers, nbytes, strict=False):
            one.counted = count

    # -- what it comes to ----------------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """That were decided so far."""
        return 1 + max(one.round for one in self.peers)

    @property
    def sent(self) -> float:
        """Bytes, the mean of the peers."""
        return sum(one.sent for one in self.peers) / self.size

    @property
    def dense(self) -> int:
        """Bytes that each would have sent to average the gradients of as many steps densely, in float32 on a ring."""
        return self.rounds * self.sync_every * dense_nbytes(self.numel, self.size)

    @property
    def identical(self) -> bool:
        """Whether all have shown weights, and the same."""
        return all(one.sha256 for one in self.peers) and len({one.sha256 for one in self.peers}) == 1

    @property
    def went_well(self) -> bool:
        """Whether everything happened that a demo shows."""
        kill = self.kill
        return self.identical and kill is not None and kill.next_round is not None and kill.back is not None and kill.same is True

    def lag(self, number: int) -> int:
        """Rounds that it is behind the first."""
        return self.rounds - 1 - self.peers[number].round

    def since(self, at: float) -> float:
        """Seconds from the beginning."""
        return at - (self.began or at)

    def sentence(self) -> str:
        """What happened."""
        said = f"{self.size} peers over {self.link} trained {self.numel:,} weights together for {self.rounds} rounds "
        said += f"and sent {mb(self.sent)} each instead of {mb(self.dense)}"
        said += f"; {self._told_of_the_kill()}; {self._told_of_the_weights()}"
        return f"{said}."

    def as_json(self) -> dict[str, Any]:
        """The same as numbers: seconds from the beginning, bytes."""
        kill = self.kill
        known = self.since
        return {
            "peers": self.size,
            "link": self.link,
            "weights": self.numel,
            "rounds": self.rounds,
            "sent_nbytes": [one.sent for one in self.peers],
            "dense_nbytes": self.dense,
            "loss": [[[round(known(at), 3), loss] for at, loss in one.curve] for one in self.peers],
            "held_out_loss": [one.final_loss for one in self.peers],
            "kill": None if kill is None else {
                "peer": kill.peer + 1,
                "at_s": known(kill.at),
                "next_round_after_s": None if kill.next_round is None else kill.next_round - kill.at,
                "started_again_at_s": None if kill.born is None else known(kill.born),
                "back_at_s": None if kill.back is None else known(kill.back),
                "rejoin_s": None if kill.back is None or kill.born is None else kill.back - kill.born,
                "same_state": kill.same,
            },
            "sha256": [one.sha256 for one in self.peers],
            "identical": self.identical,
            "sentence": self.sentence(),
        }  # fmt: skip

    def _told_of_the_kill(self) -> str:
        kill = self.kill
        if kill is None:
            return "nobody was killed"
        said = f"peer {kill.peer + 1} was killed with -9 at {self.since(kill.at):.0f} s"
        said += ", THE OTHERS DID NOT GO ON" if kill.next_round is None else f", the others went on after {kill.next_round - kill.at:.1f} s"
        if kill.back is None:
            return f"{said}, IT DID NOT COME BACK"
        same = {True: "with their state bit for bit", False: "WITH ANOTHER STATE THAN THEIRS", None: "but took part in no round"}[kill.same]
        return f"{said}, it came back at {self.since(kill.back):.0f} s {same}"

    def _told_of_the_weights(self) -> str:
        curves = [one.curve for one in self.peers if one.curve]
        first, last = (sum(curve[i][1] for curve in curves) / max(len(curves), 1) for i in (0, -1))
        fell = f"their loss fell from {first:.2f} to {last:.2f}; " if curves else ""
        if self.identical:
            return f"{fell}all {self.size} hold the same weights (sha256 {self.peers[0].sha256[:16]})"
        return f"{fell}THE WEIGHTS DIFFER (sha256 {', '.join(one.sha256[:16] or 'none' for one in self.peers)})"


def mb(nbytes: float) -> str:
    """
    >>> mb(1.24e6), mb(163.2e6)
    ('1.2 MB', '163 MB')
    """
    return f"{nbytes / MB:.0f} MB" if nbytes >= 100 * MB else f"{nbytes / MB:.1f} MB"
