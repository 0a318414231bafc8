"""Prove a run from the histories that its members wrote: every law on all of them, with file and line of what breaks one.

    thinwire verify runs/swarm/history
    thinwire verify runs/swarm/history --json

Put the histories of all members into one folder first. Exit status 1 when a law is broken.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table
from rich.text import Text

from thinwire.comms.swarm.verdict import LAWS, Verdict
from thinwire.comms.swarm.verify import check
from thinwire.output import Form, one_sentence, parse


@dataclass(frozen=True)
class Options(Form):
    """Which histories."""

    folder: tyro.conf.Positional[Path]
    """Folder with the members' histories (*.jsonl)."""
    violations: int = 20
    """How many broken laws are shown."""


def table(verdict: Verdict) -> Table:
    """One line a law."""
    made = Table()
    for heading in ("law", "checked", "broken", "holds"):
        made.add_column(heading, justify="right" if heading in ("checked", "broken") else "left")
    for law in LAWS:
        checked, broken = verdict.checked[law], verdict.broken[law]
        holds = "[red]NO[/red]" if broken else "yes" if checked else "[yellow]nothing to check[/yellow]"
        made.add_row(law, f"{checked:,}", f"{broken:,}", holds)
    return made


def summary(verdict: Verdict) -> str:
    """What was read."""
    return (
        f"{verdict.events:,} events of {verdict.members} members in {verdict.incarnations} incarnations; "
        f"{verdict.decisions:,} decisions, {len(verdict.forks)} declared forks"
    )


def told(verdict: Verdict, violations: int) -> dict[str, object]:
    """What --json says; a law that was never checked neither holds nor is broken."""
    return {
        "green": verdict.green,
        **{name: getattr(verdict, name) for name in ("events", "members", "incarnations", "decisions", "forks", "notes")},
        "laws": {law: {"checked": verdict.checked[law], "broken": verdict.broken[law]} for law in LAWS},
        "violations": verdict.violations[:violations],
    }


def main(argv: list[str]) -> None:
    """Check, print, and exit with 1 when a law is broken."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out = options.output()
        verdict = check(options.folder)
    out.say(summary(verdict), table(verdict))
    out.say(*(f"fork: {fork}" for fork in verdict.forks), *(f"note: {note}" for note in verdict.notes))
    out.say(*(Text(str(violation), style="red") for violation in verdict.violations[: options.violations]))
    hidden = sum(verdict.broken.values()) - options.violations
    if hidden > 0:
        out.say(f"... and {hidden:,} more (--violations shows them)")
    out.say(Text.assemble(("green", "green"), ": every law holds") if verdict.green else Text("RED", style="red"))
    out.tell(told(verdict, options.violations))
    if not verdict.green:
        raise SystemExit(1)
