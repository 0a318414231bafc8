"""The GPU's record as text: a table for a terminal or for docs/kernels.md, and the lines around it."""

from typing import Any

HEADINGS = ("operation", "ms per 1e9", "copy floor", "x floor (goal)", "met", "times as fast as")
NUMBERS = HEADINGS[1:3]


def text(record: dict[str, Any], *, markdown: bool = False) -> str:
    """Everything that a record says."""
    lines = [HEADINGS, *(cells(row) for row in record["rows"])]
    return "\n".join([title(record), "", *(_markdown(lines) if markdown else _plain(lines)), "", *equality(record)])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    ours, floor, goal = row.get("ms"), row.get("floor"), row["goal"]
    beside = f"{ours / floor:.2f}" if ours and floor else ""
    return (
        row["operation"],
        f"{ours:.3g}" if ours else row.get("error", "not measured"),
        f"{floor:.3g}" if floor else "",
        beside + (f" ({goal:g})" if goal else ""),
        {True: "yes", False: "NO", None: ""}[row.get("met")],
        "; ".join(_against(name, peer, ours) for name, peer in row["peers"].items()),
    )


def _against(name: str, peer: dict[str, Any], ours: float | None) -> str:
    if "ms" not in peer:
        return f"{name}: {peer.get('error', 'not measured')}"
    return f"{peer['ms'] / ours:.1f} {name} {peer['ms']:.3g}" if ours else f"{name} {peer['ms']:.3g}"


def title(record: dict[str, Any]) -> str:
    """Machine, versions, and the speed that floors are made of."""
    copy = record.get("copy")
    speed = f"; copy_ {copy['best'] / 1e12:.2f} TB/s at best, median {copy['median'] / 1e12:.2f}" if copy else ""
    size = f"; {record['elements']} parameters a call" if "elements" in record else ""
    return (
        f"{record['device']}{speed}{size}; torch {record['torch']}, triton {record['triton']}; commit {record['commit']};"
        f" {record['seconds']} s"
    )


def equality(record: dict[str, Any]) -> list[str]:
    """What was compared, and every difference."""
    told = record["equal"]
    compared = f"{told['compared']} results of {len(told['codecs'])} codecs compared with {record['judge']}"
    lines = [f"bits: {compared}, {len(told['differences'])} differ"]
    lines += [f"DIFFERENT: {one}" for one in told["differences"]]
    if told["not checked"]:
        lines.append(f"not checked: {', '.join(told['not checked'])}")
    return lines


def _plain(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS) - 1)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip() for line in lines]


def _markdown(lines: list[tuple[str, ...]]) -> list[str]:
    rule = tuple("---:" if heading in NUMBERS else "---" for heading in HEADINGS)
    made = [lines[0], rule, *lines[1:]]
    return ["| " + " | ".join(cell.replace("|", "/").replace("; ", "<br>") for cell in line) + " |" for line in made]
