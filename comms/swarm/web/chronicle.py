"""The story of a swarm as somebody sees it who looks on: what every peer was when, and what the page shows of it.

    chronicle.look(now, answers, announced)        after every look
    chronicle.told("recent")                       what the page is given, as one JSON object

Who does not answer is dead if half of the members say that it is down or silent, has left if they say so, and else just not heard:
perhaps only this machine cannot reach it. Nothing that a peer says is believed beyond its own row, but for one number in a median.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thinwire.comms.swarm.account import DIGITS
from thinwire.comms.swarm.status import Status
from thinwire.comms.swarm.transport import Key
from thinwire.comms.swarm.watch import MOST
from thinwire.comms.swarm.web.track import Track

HERE = ("training", "syncing")
COMING = ("healing", "joining")
GONE = ("dead", "left")
EVENTS = 200
RESTART_S = 2.0  # by which a process is younger than it should be
AGAIN_S = 1.5  # by which the time since when it is a member has moved
MOST_BPS = 12.5e9  # of bytes; more since the last look is not added up
LEDGER = ("round", "loss", "sent", "received", "payload", "counted", "skipped", "rejected", "reasons", "uptime_s")
Spans = Literal["recent", "whole"]


@dataclass
class Row:
    """One peer. `was_member`: whether it has ever been seen as one; `heard`, `here`: when it last answered, and as a member."""

    key: Key
    state: str = ""
    since: float = 0.0
    status: Status | None = None
    error: str = ""
    was_member: bool = False
    heard: float = 0.0
    here: float = 0.0


class Chronicle:
    """Of one run, from now on."""

    def __init__(self, run: str, *, now: float, period_s: float) -> None:
        self._run, self._period_s, self._began, self._now = run, period_s, now, now
        self._tracks: dict[Spans, Track] = {
            "recent": Track(began=now, width_s=period_s, rolls=True),
            "whole": Track(began=now, width_s=period_s),
        }
        self._rows: dict[Key, Row] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._moved = [0, 0]  # bytes sent and received by all, since the page began
        self._heard: float | None = None  # when anybody answered
        self._announced = 0
        self._first = True

    # -- looks -------------------------------------------------------------------------------------------------------------------

    def look(self, now: float, answers: Mapping[Key, Status | str | None], announced: Collection[Key]) -> None:
        """What was said by whom; None of those that may still answer."""
        spent_s, self._now, self._announced = max(now - self._now, self._period_s), now, len(announced)
        for track in self._tracks.values():
            track.advance(now)
        said = {key: answer for key, answer in answers.items() if isinstance(answer, Status)}
        if said:
            self._heard = now
        members = [status for status in said.values() if status.state in HERE]
        absent = Counter((digits, why) for status in members for digits, why in status.absent.items())
        for key, status in said.items():
            if (row := self._row(key, said.keys())) is not None:
                self._hear(row, status, spent_s)
        for key, answer in answers.items():
            if isinstance(answer, str) and (row := self._row(key, said.keys())) is not None:
                row.error = answer
        for row in [row for row in self._rows.values() if row.status is None and row.key not in answers and row.key not in announced]:
            self._forget(row)  # it was announced, and was never there
        for row in self._rows.values():
            if row.key not in said:
                self._miss(row, absent, len(members), pending=answers.get(row.key, "") is None, announced=row.key in announced)
            for track in self._tracks.values():
                track.put(row.key, row.state)
        self._measure()
        self._first = self._first and not said

    def _row(self, key: Key, said: Collection[Key]) -> Row | None:
        """Where a peer is shown: of many, those that answer come before those that do not."""
        if key not in self._rows and len(self._rows) >= MOST:
            spare = [row for row in self._rows.values() if row.key not in said and (row.status is None or row.state in GONE)]
            if not spare or key not in said:
                return None
            self._forget(min(spare, key=lambda row: row.heard))
        return self._rows.setdefault(key, Row(key))

    def _forget(self, row: Row) -> None:
        del self._rows[row.key]
        for track in self._tracks.values():
            track.drop(row.key)

    def _hear(self, row: Row, status: Status, spent_s: float) -> None:
        before, now = row.status, self._now
        again = row.was_member and before is not None
        restarted = before is not None and status.uptime_s + RESTART_S < before.uptime_s
        if before is not None:
            self._add(before, status, spent_s, restarted)
        became = now - status.member_s
        state = status.state if status.state in (*HERE, *COMING) else "no answer"
        if state == "joining" and row.was_member:
            state = "healing"
        row.error = "" if state == status.state or state == "healing" else "says of itself what no member is"
        if restarted and row.state in HERE:
            self._tell(row, "restarted")
        elif before is None:
            if not self._first:
                self._tell(row, "joined")
        elif row.state in GONE and state in (*HERE, "healing"):
            self._tell(row, "came back")
        if state in HERE and became > row.here:  # what it was until it became a member may have been too short for a look
            since = max(became - status.entering_s, row.here, self._began)
            for track in self._tracks.values():
                if became > since:
                    track.repaint(row.key, "healing" if again else "joining", since, min(became, now))
        self._turn(row, state)
        row.status, row.heard = status, now
        if state in HERE:
            row.was_member, row.here = True, now

    def _miss(self, row: Row, absent: Counter[tuple[str, str]], members: int, *, pending: bool, announced: bool) -> None:
        votes = Counter({why: absent[row.key.hex()[:DIGITS], why] for why in ("left", "down", "silent")})
        why = votes.most_common(1)[0][0]
        if 2 * votes.total() >= max(members, 1):
            state = "left" if why == "left" else "dead"
            row.error = {"left": "", "down": "no member has a link to it", "silent": "no member hears from it"}[why]
        elif row.state in GONE or (pending and row.state):
            state = row.state
        elif row.was_member and not announced and self._heard == self._now:
            state = "dead"
        else:
            state = "no answer"
        if state == "left":
            row.error = ""
        if state in GONE and row.state not in GONE and row.was_member:
            self._tell(row, "died" if state == "dead" else "left")
        self._turn(row, state)

    def _turn(self, row: Row, state: str) -> None:
        if state != row.state:
            row.state, row.since = state, self._now

    def _tell(self, row: Row, what: str) -> None:
        self._events.append({"time": round(self._now, 3), "key": row.key.hex(), "what": what})

    def _add(self, before: Status, status: Status, spent_s: float, restarted: bool) -> None:
        """What a peer has moved since the last look; of a process that has begun anew all that it tells."""
        for i, (then, now) in enumerate(((before.sent, status.sent), (before.received, status.received))):
            moved = now if restarted else now - then
            if 0 <= moved <= MOST_BPS * max(spent_s, self._period_s):
                self._moved[i] += moved

    def _measure(self) -> None:
        here = [row.status for row in self._rows.values() if row.status is not None and row.heard == self._now]
        losses = [status.loss for status in here if status.loss is not None and np.isfinite(status.loss)]
        for track in self._tracks.values():
            if losses:
                for name, value in zip(("low", "middle", "high"), np.percentile(losses, (25, 50, 75)), strict=True):
                    track.curve(name, float(value))
            if here:
                track.curve("sent", self._moved[0], "most")
                track.curve("received", self._moved[1], "most")

    # -- what the page is given --------------------------------------------------------------------------------------------------

    def told(self, span: Spans) -> dict[str, Any]:
        """Plain values for JSON; times are seconds since 1970."""
        track = self._tracks[span]
        rows = list(self._rows.values())
        shown = [row for row in rows if row.state not in GONE or track.was_there(row.key)]
        heard = [row.status for row in rows if row.status is not None and row.heard == self._now]
        first = reached([status.applied for status in heard or [row.status for row in rows if row.status is not None]])
        agree = agreement({row.key: row.status for row in rows if row.status is not None})
        end = max(self._now, track.start + track.width_s)
        return {
            "run": self._run,
            "began": round(self._began, 3),
            "now": round(self._now, 3),
            "period_s": self._period_s,
            "heard": self._heard if self._heard is None else round(self._heard, 3),
            "answer": len(heard),
            "announced": self._announced,
            "gone": len(rows) - len(shown),
            "round": first,
            "epochs": len({status.epoch for status in heard if status.epoch}),
            "start": round(track.start, 3),
            "end": round(end, 3),
            "width_s": track.width_s,
            "rows": [_told(row, track.letters(row.key), first, agree.get(row.key)) for row in shown],
            "events": list(self._events),
            "curves": {name: track.values(name) for name in ("low", "middle", "high", "sent", "received")},
        }


def reached(rounds: Sequence[int]) -> int:
    """How far a swarm is: as far as two of its peers say, that no single one puts all others behind.

    >>> reached([8, 9, 1 << 62]), reached([8, 9]), reached([])
    (9, 9, 0)
    """
    return sorted(rounds)[-2 if len(rounds) > 2 else -1] if rounds else 0


def agreement(statuses: Mapping[Key, Status]) -> dict[Key, bool]:
    """Of peers that share a verified round with others: whether at the last such their replica was that of most; of a tie nobody's is."""
    votes: dict[tuple[str, int], Counter[str]] = {}
    for status in statuses.values():
        for at, digest in status.hashes.items():
            votes.setdefault((status.epoch, at), Counter())[digest] += 1
    found: dict[Key, bool] = {}
    for key, status in statuses.items():
        shared = [at for at in status.hashes if votes[status.epoch, at].total() > 1]
        if shared:
            at = max(shared)
            count = votes[status.epoch, at]
            found[key] = 2 * count[status.hashes[at]] > count.total()
    return found


def _told(row: Row, letters: str, first: int, agrees: bool | None) -> dict[str, Any]:
    about = {"key": row.key.hex(), "state": row.state, "since": round(row.since, 3), "track": letters, "error": row.error[:200]}
    status = row.status
    if status is None:
        return about
    at = max(status.hashes, default=None)
    lag, digest = max(first - status.applied, 0), status.hashes[at] if at is not None else ""
    return about | {name: getattr(status, name) for name in LEDGER} | {"lag": lag, "hash": digest, "hash_round": at, "agrees": agrees}
