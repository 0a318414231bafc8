"""A swarm's histories as members would write them, without a swarm; and lines changed afterwards, as a fault would."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from thinwire.comms.swarm.history import History

KEYS = [sha256(f"member {i}".encode()).digest() for i in range(8)]


def hashed(*parts: object) -> bytes:
    return sha256(repr(parts).encode()).digest()


class Member:
    """Writes what one incarnation does; the state is a hash of all that was applied."""

    def __init__(self, folder: Path, i: int, *, life: int = 0) -> None:
        self.key = KEYS[i]
        self.history = History(folder, member=self.key, nonce=hashed("nonce", i, life)[:8])
        self.state, self.chain, self.sent = hashed("start"), b"", 0

    def found(self, digest: bytes, members: list["Member"]) -> None:
        self.join(digest, 0, self)
        self.history.append("epoch", digest=digest, round=0, members=[m.key for m in members])

    def join(self, digest: bytes, round: int, donor: "Member") -> None:
        self.state, self.chain = donor.state, donor.chain
        self.history.append("join", digest=digest, round=round, after=self.state)

    def decide(self, digest: bytes, round: int, counted: list["Member"], members: list["Member"], epoch: int = 0) -> None:
        self.history.append("begin", digest=digest, round=round, before=self.state)
        digests = {m.key: hashed("payload", round, m.key) for m in counted}
        self.chain = hashed(self.chain, digest, round, sorted(digests))
        skipped = {m.key: "late" for m in members if m.key not in digests}
        fields: dict[str, Any] = {"epoch": epoch, "digest": digest, "round": round, "counted": digests}
        self.history.append("commit", skipped=skipped, members=[m.key for m in members], chain=self.chain, **fields)
        before, self.state = self.state, hashed(self.state, sorted(digests)) if digests else self.state
        self.sent += 100
        told = {"before": before, "after": self.state, "sent": 100, "received": 200, "sent_counted": self.sent}
        self.history.append("apply" if digests else "skip", **fields, **told)

    def leave(self) -> None:
        self.history.append("leave", sent=7, sent_counted=self.sent + 7)
        self.history.close()


EPOCH, OTHER = hashed("epoch 0"), hashed("epoch 1")


def run(folder: Path, rounds: int = 6, members: int = 3) -> list[Member]:
    """`members` decide `rounds`: the third has nothing to count, in the fourth the first one is skipped; one joins for the last two."""
    everybody = [Member(folder, i) for i in range(members)]
    everybody[0].found(EPOCH, everybody)
    for member in everybody[1:]:
        member.join(EPOCH, 0, everybody[0])
    newcomer = Member(folder, members)
    for round in range(rounds):
        if round == rounds - 2:
            newcomer.join(EPOCH, round, everybody[0])
            everybody.append(newcomer)
        counted = [] if round == 2 else everybody[1:members] if round == 3 else everybody[:members]
        for member in everybody:
            member.decide(EPOCH, round, counted, everybody)
    return everybody


def end(members: list[Member]) -> None:
    for member in members:
        member.leave()


def change(folder: Path, member: int, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """Let `edit` do something to the lines of a member's first incarnation."""
    path = next(folder.glob(f"{KEYS[member].hex()[:16]}-{hashed('nonce', member, 0)[:8].hex()}.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def find(lines: list[dict[str, Any]], kind: str, round: int | None = None) -> dict[str, Any]:
    return next(line for line in lines if line["kind"] == kind and round in (None, line.get("round", -1)))
