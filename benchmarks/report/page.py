"""What a page is made of - sections of tables, heat maps and pictures - and how it becomes one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from benchmarks.suite.record import Made

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Row:
    """Of a table; with a `note` (why there is nothing to show, or what is wrong with it) under it."""

    cells: Sequence[str]
    note: str = ""
    status: str = "ok"


@dataclass(frozen=True)
class Table:
    """The first `words` columns hold words, the others numbers; `folded` shows the title only, until it is opened."""

    headings: Sequence[str]
    rows: Sequence[Row]
    title: str = ""
    words: int = 1
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Cell:
    """Of a heat map: a text on a colour, and a smaller text under it."""

    text: str = ""
    below: str = ""
    colour: str = ""
    ink: str = ""


@dataclass(frozen=True)
class Heat:
    """A small map: `rows` by `columns`, a cell each."""

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class Heats:
    """Heat maps beside each other, as far as the screen is wide."""

    maps: Sequence[Heat]
    caption: str
    kind: str = "heats"


@dataclass(frozen=True)
class Picture:
    """A picture and what it says."""

    svg: Markup
    caption: str
    kind: str = "picture"


@dataclass(frozen=True)
class Section:
    """A suite's part of the page."""

    anchor: str
    title: str
    text: str
    blocks: Sequence[Table | Heats | Picture]
    made: Sequence[Made] = ()
    origins: Sequence["Origin"] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", origins(self.made))


@dataclass(frozen=True)
class Origin:
    """What made a section's numbers: a command, and the machine, versions and time of it; `runs` is how many it made."""

    command: str
    runs: int
    facts: tuple[tuple[str, str], ...]


def origins(made: Sequence[Made]) -> tuple[Origin, ...]:
    """One for each command, in order of first appearance."""
    found: dict[str, list[Made]] = {}
    for one in made:
        found.setdefault(one.command, []).append(one)
    return tuple(Origin(command, len(ones), _facts(ones)) for command, ones in found.items())


def _facts(made: Sequence[Made]) -> tuple[tuple[str, str], ...]:
    def each(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values))

    times, loads = sorted(one.time for one in made), sorted(one.load for one in made)
    return (
        ("commit", each([one.commit for one in made])),
        ("torch", each([one.torch for one in made])),
        ("Python", each([one.python for one in made])),
        ("machine", each([f"{one.machine}, {one.cpus} CPUs" for one in made])),
        ("load", f"{loads[0]:g}" if loads[0] == loads[-1] else f"{loads[0]:g} to {loads[-1]:g}"),
        ("measured", times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"),
    )


def render(sections: Sequence[Section], *, files: Sequence[str], notes: Sequence[str], version: str) -> str:
    """The page; `notes` are said at its top."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(sections=sections, files=files, notes=notes, version=version)
