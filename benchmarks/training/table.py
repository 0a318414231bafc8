"""The table: a line a method, medians over the seeds; what could not run is told with its reason."""

from rich.table import Table
from rich.text import Text

from benchmarks.suite.record import ABSENT, OK, Record, middle
from benchmarks.training.curve import wall_to_loss
from benchmarks.training.options import Options
from benchmarks.training.rows import TUNED, Row
from benchmarks.training.setting import Run

MB = 1e6
LEFT = ("method", "target")
FULL = Run.steps  # for which targets and known numbers hold


def table(options: Options, records: list[Record], link: str) -> Table:
    """The rows over links of this name, as far as there are records of them."""
    title = f"{options.workers} workers, {options.steps} steps after a warm start of {options.warm_steps}; {link}"
    shown = [record for name in options.rows for record in options.of(name, link, records)]
    counted = sorted({record.bytes.counted_by for record in shown if record.bytes})
    caption = "\n".join([*([f"MB: 10^6 bytes a worker, {', '.join(counted)}. cpu s: of its process."] if counted else []), TUNED])
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    until = [f"wall s to {options.until_loss:g}"] if options.until_loss is not None else []
    numbers = ("MB sent", "MB received", "payload MB", "x DDP", "cpu s", "wall s")
    for heading in ("method", "val loss", "range", *numbers, *until, "replicas equal", "seeds", "target"):
        made.add_column(heading, justify="left" if heading in LEFT else "right")
    dense = _sent_a_step([r for r in options.of("ddp", link, records) if r.status == OK])
    for name, row in options.shown():
        found = options.of(name, link, records)
        good = [record for record in found if record.status == OK]
        if good:
            made.add_row(*_cells(options, row, good, dense, _wanted(options, row, link, records)))
        elif found:
            reason = ((found[-1].reason or "").splitlines() or [""])[0]
            told = Text(f"{found[-1].status}: {reason}", style="" if found[-1].status == ABSENT else "red")
            made.add_row(row.setting.label, *[""] * (len(made.columns) - 2), told)
    return made


def _sent(found: list[Record]) -> list[float]:
    return [r.bytes.interface_sent for r in found if r.bytes and r.bytes.interface_sent is not None]


def _sent_a_step(found: list[Record]) -> float | None:
    return middle(_sent(found))[0] / found[0].steps if found else None


def _numbers(found: list[Record], name: str) -> list[float]:
    return [value for record in found if (value := record.numbers.get(name)) is not None]


def _wanted(options: Options, row: Row, link: str, records: list[Record]) -> float | None:
    """The loss that a row must reach, which may be that of another row."""
    if isinstance(row.loss, str):
        other = [record for record in options.of(row.loss, link, records) if record.status == OK]
        return middle(_numbers(other, "loss"))[0] if other else None
    return row.loss


def _cells(options: Options, row: Row, found: list[Record], dense: float | None, wanted: float | None) -> list[str]:
    loss, least, most = middle(_numbers(found, "loss"))
    sent = middle(_sent(found))[0]
    received = [r.bytes.interface_received for r in found if r.bytes and r.bytes.interface_received is not None]
    payload = [r.bytes.payload_sent for r in found if r.bytes and r.bytes.payload_sent is not None]
    steps = "" if found[0].steps == options.steps else f" ({found[0].steps} steps)"
    return [
        row.setting.label + steps,
        f"{loss:.3f}",
        f"{least:.3f} .. {most:.3f}",
        f"{sent / MB:.2f}",
        f"{middle(received)[0] / MB:.2f}" if received else "",
        f"{middle(payload)[0] / MB:.2f}" if payload else "",
        f"{dense * found[0].steps / sent:.0f}" if dense and sent > MB / 100 else "",
        f"{middle(_numbers(found, 'cpu_s'))[0]:.1f}",
        f"{middle(_numbers(found, 'wall_s'))[0]:.1f}",
        *([_crossing(found, options.until_loss)] if options.until_loss is not None else []),
        "yes" if all(record.checks["replicas_equal"] for record in found) else "NO",
        str(len(found)),
        _target(row, wanted, loss, sent) if found[0].steps == FULL else "",
    ]


def _crossing(found: list[Record], loss: float) -> str:
    """The median over seeds, those that never come there last."""
    walls = sorted(float("inf") if (wall := wall_to_loss(record, loss)) is None else wall for record in found)
    wall = walls[len(walls) // 2]
    return "never" if wall == float("inf") else f"{wall:.1f}"


def _target(row: Row, wanted: float | None, loss: float, sent: float) -> str:
    told, missed = [], False
    if wanted is not None:
        told.append(f"<= {wanted:.3f} ({row.loss})" if isinstance(row.loss, str) else f"<= {wanted}")
        missed |= loss > wanted
    if row.megabytes is not None:
        told.append(f"<= {row.megabytes:g} MB")
        missed |= sent > row.megabytes * MB
    return f"{', '.join(told)}: {'missed' if missed else 'met'}" if told else (f"known: {row.known}" if row.known else "")
