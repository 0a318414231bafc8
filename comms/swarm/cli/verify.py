"""Prove a run from the histories that its members wrote: every law on all of them, with file and line of what breaks one.

    thinwire verify runs/swarm/history

Put the histories of all members into one folder first. Exit status 1 when a law is broken.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from thinwire.comms.swarm.cli.options import console, one_sentence, parse
from thinwire.comms.swarm.verdict import LAWS, Verdict
from thinwire.comms.swarm.verify import check


@dataclass(frozen=True)
class Options:
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


def main(argv: list[str]) -> None:
    """Check, print, and exit with 1 when a law is broken."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        verdict = check(options.folder)
    out = console()
    out.print(summary(verdict), highlight=False)
    out.print(table(verdict))
    for line in (*(f"fork: {fork}" for fork in verdict.forks), *(f"note: {note}" for note in verdict.notes)):
        out.print(line, markup=False, highlight=False)
    for violation in verdict.violations[: options.violations]:
        out.print(str(violation), markup=False, highlight=False, style="red")
    hidden = sum(verdict.broken.values()) - options.violations
    if hidden > 0:
        out.print(f"... and {hidden:,} more (--violations shows them)", highlight=False)
    out.print("[green]green[/green]: every law holds" if verdict.green else "[red]RED[/red]", highlight=False)
    if not verdict.green:
        raise SystemExit(1)
