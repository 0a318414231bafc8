"""Training: loss against bytes and against time on the clock, every method on the same task."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import budget, drawing
from benchmarks.report.page import Picture, Row, Section, Table
from benchmarks.report.words import NONE, check, link_words, megabytes, mid, number, said, significant, yes
from benchmarks.suite.record import OK, Point, Record, middle

HEADINGS = (
    "method", "loss", "range", "MB sent", "MB received", "payload MB", "x fewer than DDP", "wall s", "replicas equal", "steps", "seeds",
)  # fmt: skip
DENSE = "ddp"  # the method that the others are compared with


@dataclass(frozen=True)
class Group:
    """The runs of one method on one link, one a seed; `ok` are those that count."""

    label: str
    method: str
    link: str
    steps: int
    runs: tuple[Record, ...]

    @property
    def ok(self) -> list[Record]:
        return [run for run in self.runs if run.status == OK]

    def median(self, what: str) -> float | None:
        """Of a field of `bytes`, or of a number."""
        if what.startswith(("interface", "payload")):
            return mid(getattr(run.bytes, what) if run.bytes else None for run in self.ok)
        return mid(wall_s(run) if what == "wall_s" else loss(run) for run in self.ok)


def loss(record: Record) -> float | None:
    return number(record, "loss", "val_loss")


def wall_s(record: Record) -> float | None:
    found = number(record, "wall_s", "train_s")
    return record.curve[-1].wall_s if found is None and record.curve else found


def groups(records: Sequence[Record]) -> list[Group]:
    """By link, label and steps, in order of appearance."""
    found: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in records:
        found.setdefault((link_words(record.link), record.label or record.key, record.method, record.steps), []).append(record)
    return [Group(label, method, link, steps, tuple(runs)) for (link, label, method, steps), runs in found.items()]


def section(records: Sequence[Record]) -> Section:
    found = groups(records)
    pictures = [picture for picture in (against_bytes(found), against_time(found), budget.picture(records, "training")) if picture]
    members = " or ".join(str(n) for n in sorted({record.members for record in records if record.status == OK}))
    return Section(
        "training",
        "Training",
        f"One model, the same data and order of data for every method{f'; {members} members' if members else ''}"
        ". Loss is on held-out text: the median over seeds, and its range. "
        "Bytes are those of a member.",
        [*tables(found), *pictures],
        [record.made for record in records],
    )


def tables(found: Sequence[Group]) -> list[Table]:
    """One a link."""
    links = list(dict.fromkeys(group.link for group in found))
    return [Table(HEADINGS, [_row(group, own) for group in own], link) for link in links if (own := [g for g in found if g.link == link])]


def _row(group: Group, own: Sequence[Group]) -> Row:
    """Of `own`, the groups on one link; DDP is that of as many steps."""
    notes = "; ".join(dict.fromkeys(said(run) + _seed(run, group) for run in group.runs if run.status != OK))
    if not group.ok:
        return Row([group.label, *[""] * (len(HEADINGS) - 1)], notes, group.runs[0].status)
    values = [value for value in map(loss, group.ok) if value is not None]
    dense = next((other.median("interface_sent") for other in own if (other.method, other.steps) == (DENSE, group.steps)), None)
    sent = group.median("interface_sent")
    equal = [held for run in group.ok if (held := check(run, "replicas_equal")) is not None]
    cells = [
        group.label,
        f"{middle(values)[0]:.3f}" if values else NONE,
        f"{min(values):.3f} .. {max(values):.3f}" if len(values) > 1 else "",
        megabytes(sent),
        megabytes(group.median("interface_received")),
        megabytes(group.median("payload_sent")),
        significant(dense / sent) if dense and sent and group.method != DENSE else "",
        significant(group.median("wall_s")),
        yes(all(equal) if equal else None),
        str(group.steps),
        f"{len(group.ok)} of {len(group.runs)}" if len(group.ok) < len(group.runs) else str(len(group.runs)),
    ]
    return Row(cells, notes)


def _seed(run: Record, group: Group) -> str:
    return f" (seed {run.seed})" if run.seed is not None and len(group.runs) > 1 and group.ok else ""


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What none beats in both: from fewest bytes to least loss."""
    best: list[tuple[float, float]] = []
    for sent, value in sorted(points):
        if not best or value < best[-1][1]:
            best.append((sent, value))
    return best


def against_bytes(found: Sequence[Group]) -> Picture | None:
    """Loss against bytes sent of the runs with the most steps, one point a method and link, the front drawn through."""
    most = max((group.steps for group in found if group.ok), default=0)
    points = [
        (g, sent, value)
        for g in found
        if g.steps == most and (sent := g.median("interface_sent")) and (value := g.median("loss")) is not None
    ]
    if not points:
        return None
    best = front([(sent / 1e6, value) for _, sent, value in points])
    left_out = [group.label for group in found if group.ok and group.steps == most and group not in [group for group, *_ in points]]
    looks = drawing.styles([(group.method, group.label) for group, *_ in points])
    named: set[str] = set()
    with drawing.drawn():
        figure = drawing.figure(9.6, 5.2 + 0.22 * -(-len(looks) // 3))
        axes = figure.subplots()
        axes.plot(*zip(*best, strict=True), color=drawing.FRONT, linewidth=2, drawstyle="steps-post", zorder=0, label="Pareto front")
        for group, sent, value in points:
            values = [one for one in map(loss, group.ok) if one is not None]
            look = looks[group.label]
            bar = [[value - min(values)], [max(values) - value]]
            axes.errorbar(
                sent / 1e6, value, yerr=bar, fmt=look.marker, color=look.colour, markersize=9, linewidth=1.2, markeredgewidth=0.5,
                markeredgecolor=drawing.PAGE, label=group.label,
            )  # fmt: skip
            if (sent / 1e6, value) in best and group.label not in named:  # below and above by turns, for neighbours
                named.add(group.label)
                axes.annotate(group.label, (sent / 1e6, value), (7, -13 if len(named) % 2 else 5), textcoords="offset points", fontsize=9)
        axes.set(xscale="log", xlabel="MB sent by a member (interface counters)", ylabel="validation loss")
        axes.margins(x=0.08, y=0.1)
        drawing.plain_ticks(axes)
        drawing.legend(figure, [axes], 3)
        made = drawing.svg(figure, "training-bytes", "Validation loss against megabytes sent by a member, for each method")
    caption = (
        f"After {most} steps; lower and further left is better. The line is the Pareto front: nothing measured here beats it in both. "
    )
    caption += "Bars: range over seeds."
    return Picture(made, caption + (f" Without interface bytes, so not drawn: {', '.join(left_out)}." if left_out else ""))


def against_time(found: Sequence[Group]) -> Picture | None:
    """Loss against the clock, a panel for each link on which curves were measured."""
    drawn = [(group, curve) for group in found if len(curve := common(group.ok)) > 1]
    links = sorted({group.link for group, _ in drawn}, key=lambda link: (_rate(link, found), link))
    if not drawn:
        return None
    looks = drawing.styles([(group.method, group.label) for group, _ in drawn])
    columns = min(3, len(links))
    lines = -(-len(links) // columns)
    with drawing.drawn():
        figure = drawing.figure(9.6, 3.6 * lines + 0.4 + 0.22 * -(-len(looks) // 3))
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for axes, link in zip(panels, links, strict=False):
            for group, curve in drawn:
                if group.link == link:
                    look = looks[group.label]
                    axes.plot(
                        [point.wall_s for point in curve], [point.loss for point in curve], color=look.colour, linestyle=look.dash,
                        marker=look.marker, markevery=[-1], linewidth=1.6, label=group.label,
                    )  # fmt: skip
            axes.set(xscale="log", xlabel="training seconds")
            axes.set_title(link, fontsize=10)
            drawing.plain_ticks(axes)
        for axes in panels[len(links) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("validation loss")
        drawing.legend(figure, panels, 3)
        made = drawing.svg(figure, "training-time", "Validation loss against training seconds, one panel for each link")
    return Picture(made, "Measured on each of these links, evaluation not counted; the median over seeds.")


def common(runs: Sequence[Record]) -> list[Point]:
    """The curve of the medians, at the steps that all seeds have; step 0 has no place on a logarithmic axis."""
    curves = [{point.step: point for point in run.curve if point.step > 0} for run in runs if run.curve]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return [
        Point(step, *(middle(getattr(curve[step], name) for curve in curves)[0] for name in ("loss", "wall_s", "sent"))) for step in steps
    ]


def _rate(link: str, found: Sequence[Group]) -> float:
    asked = next(run.link for group in found if group.link == link for run in group.runs)
    return float("inf") if asked is None or asked.asked.up_mbit is None else asked.asked.up_mbit
