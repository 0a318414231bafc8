"""Prove a run from what its members wrote: every law below, over all histories of a folder, as a stream.

    verdict = check(folder)
    verdict.green, verdict.violations

    same state      the same slot of the same epoch leaves the same state on every member, and newcomers adopt exactly that
    same decision   ... and was decided alike: who counts with which payload, who does not and why, who decides next
    once            a payload is applied as decided, once, or skipped everywhere
    gap-free        decisions follow each other slot by slot, and so does what is applied; a newcomer begins where its join says
    untouched       state changes by applying a decision and by nothing else: a failed or skipped round leaves it as it was
    bytes           what a member reported adds up to what its transport counted
    lineage         every epoch is declared and goes on from a decision that is known; who counts was a member
    whole           no line is missing or out of order, but those that a full disk cost, which are declared

`checked` counts what each law was proved on: a law with nothing to check proves nothing. Lines that a full disk lost leave a hole: what
would need them is left out, and `notes` says so.
"""

from collections.abc import Iterable
from pathlib import Path

from thinwire.comms.swarm.history import Event, Place, read_placed
from thinwire.comms.swarm.verdict import Verdict
from thinwire.comms.swarm.verify_life import Life
from thinwire.comms.swarm.verify_run import Run


def check(folder: str | Path) -> Verdict:
    """The verdict over all histories of a folder. Raises `HistoryError` when they cannot be read."""
    return check_events(read_placed(folder))


def check_events(events: Iterable[tuple[Place, Event]]) -> Verdict:
    """The same over events from anywhere; those of an incarnation come in their order."""
    run = Run(Verdict())
    lives: dict[tuple[str, str], Life] = {}
    for place, event in events:
        run.verdict.events += 1
        life = lives.get((event.member, event.nonce))
        if life is None:
            life = lives[event.member, event.nonce] = Life(run)
        life.take(place, event)
    run.verdict.incarnations = len(lives)
    run.verdict.members = len({member for member, _ in lives})
    run.finish()
    return run.verdict
