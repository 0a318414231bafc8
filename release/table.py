"""What was run, as a table of docs/releasing.md: torches down, Pythons across, and a reason for every cell that does not pass."""

from collections.abc import Sequence
from pathlib import Path

from release.cell import PASSES, Outcome
from release.where import PYTHONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "releasing.md"
BEGIN, END = "<!-- written by make test-wheel -->", "<!-- end of the table -->"


def render(outcomes: Sequence[Outcome], heading: str) -> str:
    """All outcomes: who passes says the milliseconds that thinwire adds to the import of torch, all others refer to a reason below."""
    cells = {(outcome.torch, outcome.python): outcome for outcome in outcomes}
    torches = sorted({outcome.torch for outcome in outcomes}, key=_order)
    reasons: dict[tuple[str, str], int] = {}
    lines = [heading, "", "| torch | " + " | ".join(f"Python {minor}" for minor in PYTHONS) + " |", "|---|" + "---|" * len(PYTHONS)]
    for torch in torches:
        row = [_cell(cells.get((torch, minor)), reasons) for minor in PYTHONS]
        lines.append(f"| {torch} | {' | '.join(row)} |")
    lines += [""] * bool(reasons) + [f"{number}. {word}: {why}" for (word, why), number in reasons.items()]
    built = sorted({outcome.build for outcome in outcomes if outcome.word == PASSES}, key=_order)
    return "\n".join([*lines, "", f"Builds of torch: {', '.join(built) or 'none'}."])


def written(text: str, table: str) -> str:
    """The page with that table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def _cell(outcome: Outcome | None, reasons: dict[tuple[str, str], int]) -> str:
    if outcome is None:
        return "not asked for"
    if outcome.word == PASSES:
        return f"passes, {1000 * outcome.import_s:.0f} ms"
    number = reasons.setdefault((outcome.word, outcome.why), len(reasons) + 1)
    return f"{outcome.word} ({number})"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
