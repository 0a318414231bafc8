"""From pytest-benchmark's record to rows, to the table."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.kernels.operation import Operation

NS = 1e9
OLDER = 1.3  # what a processor without AVX-512 may take of every goal


def rows(operations: Sequence[Operation], benchmarks: list[dict[str, Any]], *, isa: int, authors: bool) -> list[dict[str, Any]]:
    """One row an operation, all its repetitions together. The goals against DeMo are against its `authors`' code."""
    made = []
    for operation in operations:
        found = [one for one in benchmarks if one["extra_info"]["operation"] == operation.name]
        if found:
            beats = {name: goal if authors or name != "DeMo" else None for name, goal in operation.beats.items()}
            made.append(_row(replace(operation, beats=beats), found, 1.0 if isa >= 2 else OLDER))
    _floors(operations, made)
    return made


def _row(operation: Operation, found: list[dict[str, Any]], allowance: float) -> dict[str, Any]:
    notes = [one["extra_info"] for one in found]
    scale = NS / notes[0]["elements"]
    own = [one["stats"]["data"] for one in found] if notes[0]["ours"] else None
    row: dict[str, Any] = {"operation": operation.name, "clock": "wall" if operation.wall else "cpu", "elements": notes[0]["elements"]}
    if own:
        row["ours"] = _times(own, scale)
    if operation.probe:
        row["probe"] = {"name": operation.probe} | _times([[t for pair in one["probed"] for t in pair] for one in notes], scale)
        if own:
            around = [[(before + after) / 2 for before, after in one["probed"]] for one in notes]
            row["x_probe"] = _ratio(own, around, operation.goal and operation.goal * allowance)
    row["peers"] = {}
    spared = 1.0 if operation.alone else allowance  # ours against ours
    for name, goal in operation.beats.items():
        theirs = [one["peers"][name] for one in notes]
        row["peers"][name] = _times(theirs, scale)
        if own:
            row["peers"][name] |= _scaling(theirs, own, goal) if operation.wall else _ratio(theirs, own, goal and goal / spared)
    if own and operation.rate:
        row["rate"] = {"median": round(1e3 / row["ours"]["median"], 1), "goal": round(operation.rate / allowance)}
    row["met"] = _met(row)
    return row


def _times(repetitions: list[list[float | None]], scale: float) -> dict[str, float]:
    times = sorted(t * scale for one in repetitions for t in one if t is not None)
    return {"median": round(median(times), 4), "min": round(times[0], 4)}


def _ratio(above: list[list[float | None]], below: list[list[float]], goal: float | None) -> dict[str, Any]:
    """The median of the ratios within a round, over all rounds; and the least and greatest median of a repetition."""
    pairs = [zip(a, b, strict=True) for a, b in zip(above, below, strict=True)]
    ratios = [[a / b for a, b in one if a is not None] for one in pairs]
    medians = [median(one) for one in ratios]
    whole = median(ratio for one in ratios for ratio in one)
    return {"x": round(whole, 3), "least": round(min(medians), 3), "most": round(max(medians), 3), "goal": goal and round(goal, 2)}


def _scaling(one: list[list[float]], two: list[list[float]], goal: float | None) -> dict[str, Any]:
    """Of times on the wall the least count: whatever else runs on the machine takes a thread's core, and only ever adds."""
    ratios = [min(a) / min(b) for a, b in zip(one, two, strict=True)]
    return {
        "x": round(min(map(min, one)) / min(map(min, two)), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "goal": goal,
    }


def _met(row: dict[str, Any]) -> bool | None:
    """Whether all goals are met; None without a goal."""
    told = []
    if row.get("x_probe", {}).get("goal"):
        told.append(row["x_probe"]["x"] <= row["x_probe"]["goal"])
    told += [peer["x"] >= peer["goal"] for peer in row["peers"].values() if peer.get("goal")]
    if "rate" in row:
        told.append(row["rate"]["median"] >= row["rate"]["goal"])
    return all(told) if told else None


def _floors(operations: Sequence[Operation], made: list[dict[str, Any]]) -> None:
    """The time to move an operation's bytes: those read at the speed of the read-sum, or all at that of `mul_` if that is longer."""
    probes = {name: [row["probe"]["min"] for row in made if row.get("probe", {}).get("name") == name] for name in ("read-sum", "mul_")}
    if not all(probes.values()):
        return
    per_read, per_any = min(probes["read-sum"]) / 4, min(probes["mul_"]) / 8
    for row in made:
        operation = next(one for one in operations if one.name == row["operation"])
        if operation.read and not operation.wall:
            row["floor"] = round(max(operation.read * per_read, (operation.read + operation.written) * per_any), 4)


HEADINGS = ("operation", "ns/element", "min", "floor", "x probe (goal)", "x faster than (goal)", "met")


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """For a terminal."""
    made = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading in HEADINGS[1:4] else "left")
    for row in rows:
        made.add_row(*cells(row))
    return made


def markdown(rows: list[dict[str, Any]]) -> str:
    """For docs/kernels.md."""
    lines = [HEADINGS, ["---"] + ["---:"] * 3 + ["---"] * 3, *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)


def cells(row: dict[str, Any]) -> list[str]:
    """Several peers are several lines of a cell."""
    own = row.get("ours")
    return [
        row["operation"],
        f"{own['median']:.2f}" if own else "",
        f"{own['min']:.2f}" if own else "",
        f"{row['floor']:.2f}" if "floor" in row else "",
        _beside(row),
        "\n".join(_against(name, peer) for name, peer in row["peers"].items()),
        {True: "yes", False: "NO", None: ""}[row["met"]],
    ]


def _beside(row: dict[str, Any]) -> str:
    """The probe, or how many a second."""
    if "rate" in row:
        return f"{row['rate']['median']:.0f}{_goal(row['rate'])} million/s"
    if "probe" not in row:
        return ""
    return _against(row["probe"]["name"], row["probe"] | row.get("x_probe", {}))


def _against(name: str, other: dict[str, Any]) -> str:
    """`ratio (goal) name its-own-time`."""
    ratio = f"{other['x']:{'.2f' if other['x'] < 10 else '.1f'}}{_goal(other)} " if "x" in other else ""
    return f"{ratio}{name} {other['median']:.2f}"


def _goal(of: dict[str, Any]) -> str:
    return f" ({of['goal']:g})" if of["goal"] else ""


def title(record: dict[str, Any]) -> str:
    """Machine and versions."""
    return f"{record['cpu']}, {record['isa']}; torch {record['torch']}; commit {record['commit']}; load {record['load']:.1f}"


def legend(record: dict[str, Any]) -> str:
    """How to read the table."""
    return (
        f"Medians of {record['repetitions']} x {record['rounds']} rounds, CPU time of one thread; after a name its ns/element; "
        "ratios are medians of those within a round (two threads: of the least wall times). "
        f"torch.compile with {record['backend']}. DeMo: {record['DeMo']}."
    )
