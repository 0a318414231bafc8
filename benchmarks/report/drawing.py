"""Pictures as SVG within the page: their text and colours are the page's, so that they follow its light and dark scheme."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours, told apart by all kinds of sight, a little darker on white; the page's --c0 ... are these, and lighter on black.
COLOURS = ("#0072b2", "#d55e00", "#00795a", "#b97800", "#b0568f", "#2f93cf", "#7a6c00", "#6b7280")
INK, LINE, FRONT, PAGE = "#1b1d21", "#d9dce1", "#9aa0aa", "#fffffe"
VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)", LINE: "var(--line)", FRONT: "var(--front)", PAGE: "var(--page)",
}  # fmt: skip
MARKERS = "osD^vPX*<>"
DASHES = ("-", "--", ":", "-.")
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "thinwire",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FRONT,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Style:
    """How one series looks: a colour for its family, a marker and a dash for itself."""

    colour: str
    marker: str
    dash: str


def styles(series: Sequence[tuple[str, str]]) -> dict[str, Style]:
    """By name, from (family, name)."""
    families: dict[str, list[str]] = {}
    for family, name in series:
        members = families.setdefault(family, [])
        if name not in members:
            members.append(name)
    return {
        name: Style(COLOURS[i % len(COLOURS)], MARKERS[(i + j) % len(MARKERS)], DASHES[j % len(DASHES)])
        for i, members in enumerate(families.values())
        for j, name in enumerate(members)
    }


@contextmanager
def drawn() -> Iterator[None]:
    """The looks of every picture."""
    with matplotlib.rc_context(SETTINGS):
        yield


def figure(width: float, height: float) -> Figure:
    """In inches, of which a wide page shows 9.6."""
    return Figure(figsize=(width, height), layout="constrained")


def svg(made: Figure, name: str, label: str) -> Markup:
    """The figure as an element of the page, called `name` there; `label` is for those who hear it."""
    text = StringIO()
    made.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    found = text.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", found)  # ids hold for the whole page
    for colour, variable in VARIABLES.items():
        found = found.replace(colour, variable)
    found = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">', found)
    return Markup(found.replace("xlink:href", "href").replace("<metadata>\n  </metadata>", ""))


def plain_ticks(axes: Any) -> None:
    """Of a logarithmic x axis: 1, 10, 100, and 2 and 5 between them where there is room."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(made: Figure, axes: Any, columns: int) -> None:
    """Every name of all `axes` once, under them."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        made.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(columns, len(found)))
