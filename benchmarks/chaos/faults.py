"""Which faults, in which order, with which numbers: all of it follows from a seed, so that a run can be named and played again."""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

HEARTBEAT_S = 0.25
# Of the leader of the next round: it dies on sending or on hearing the first such message, before, between or after its recipients.
LEADER_STATES = (
    "start", "propose before", "propose half", "propose after", "accept heard", "commit before", "commit half", "commit after", "apply",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how often it is drawn, for how many seconds it may last, and whether it takes network namespaces."""

    weight: int
    seconds: tuple[float, ...] = (0.0,)
    cuts: bool = False


KINDS = {
    "kill": Kind(8),
    "freeze": Kind(5, (0.3, 2 * HEARTBEAT_S, 10 * HEARTBEAT_S)),
    "leader": Kind(5),  # killed at one of LEADER_STATES
    "join and die": Kind(2),
    "slow": Kind(2, (1.0, 3.0)),
    "cut": Kind(3, (0.5, 2.0, 6.0), cuts=True),  # one or two members from the others
    "hole": Kind(2, (1.0, 4.0, 12.0), cuts=True),  # two members from each other, while the rest hears both
    "flap": Kind(1, (0.2,), cuts=True),  # its link goes down and up, five times
    "bootstrap": Kind(1),
    "storm": Kind(1),  # three newcomers at once, which leave again
    "leave": Kind(1),  # and come back
    "all but one": Kind(1),
    "disk full": Kind(1, (1.0,)),
}


@dataclass(frozen=True)
class Fault:
    """One fault. `pick` in [0, 1) chooses the victim among those who are there; `rounds` is how many rounds pass in calm before it;
    `overlaps` means that it does not wait for the one before to be over; `same_key` that the victim comes back under its old name."""

    number: int
    kind: str
    pick: float
    seconds: float
    rounds: int
    overlaps: bool
    same_key: bool
    state: str = ""

    def __str__(self) -> str:
        told = f" at {self.state!r}" if self.state else ""
        return f"{self.kind}{told}{f' for {self.seconds:g} s' if self.seconds else ''}"


def plan(seed: int, events: int, kinds: Collection[str]) -> list[Fault]:
    """`events` faults of these kinds; the same for the same arguments. Leader faults go through all states in turn."""
    random = Random(f"thinwire chaos {seed}")
    names = [name for name in KINDS if name in kinds]
    weights = [KINDS[name].weight for name in names]
    made: list[Fault] = []
    leaders = random.randrange(len(LEADER_STATES))
    for number in range(events):
        kind = random.choices(names, weights)[0]
        leaders += kind == "leader"
        made.append(
            Fault(
                number=number,
                kind=kind,
                pick=random.random(),
                seconds=random.choice(KINDS[kind].seconds),
                rounds=random.randint(1, 3),
                overlaps=random.random() < 0.2,
                same_key=random.random() < 0.5,
                state=LEADER_STATES[leaders % len(LEADER_STATES)] if kind == "leader" else "",
            )
        )
    return made
