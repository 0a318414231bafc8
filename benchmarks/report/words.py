"""Numbers and links as words, and which settings tell some runs apart."""

from collections.abc import Iterable, Sequence

from benchmarks.suite.record import OK, Link, Percentiles, Record, middle

NONE = "-"
WORST = ("failed", "void", "absent")


def number(record: Record, *names: str) -> float | None:
    """The first of these numbers that the record has."""
    return next((value for name in names if (value := record.numbers.get(name)) is not None), None)


def check(record: Record, *names: str) -> bool | None:
    """The first of these checks that the record has."""
    return next((record.checks[name] for name in names if name in record.checks), None)


def mid(values: Iterable[float | None]) -> float | None:
    """The median of what is there."""
    found = [value for value in values if value is not None]
    return middle(found)[0] if found else None


def significant(value: float | None, digits: int = 3) -> str:
    """So many digits at least, no exponent: 0.0123, 1.20, 120, 1205."""
    if value is None:
        return NONE
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", "\u202f")
    whole = f"{value:#.{digits}g}"
    return f"{float(whole):f}".rstrip("0").rstrip(".") if "e" in whole else whole.rstrip(".")


def megabytes(nbytes: float | None) -> str:
    return NONE if nbytes is None else significant(nbytes / 1e6)


def size(nbytes: float | None) -> str:
    """1 KiB, 256 MiB: sizes of messages are powers of two."""
    if nbytes is None:
        return NONE
    for unit, least in (("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= least:
            return f"{nbytes / least:.4g} {unit}"
    return f"{nbytes:.0f} B"


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def yes(held: bool | None) -> str:
    return {None: NONE, True: "yes", False: "NO"}[held]


def percentiles_ms(of: Percentiles | None) -> str:
    """p50 / p95 / p99."""
    return NONE if of is None else " / ".join(significant(1e3 * value) for value in (of.p50, of.p95, of.p99))


def rate(link: Link | None) -> str:
    """20, 100/20 (down/up), unlimited: Mbit/s."""
    if link is None:
        return NONE
    up, down = link.asked.up_mbit, link.asked.down_mbit
    if up is None and down is None:
        return "no limit"
    return f"{up:g}" if up == down else "/".join("no limit" if one is None else f"{one:g}" for one in (down, up))


def link_words(link: Link | None) -> str:
    """All that was asked of a link, and where it is not the lab's: where."""
    if link is None:
        return "no link"
    asked = link.asked
    words = [f"{rate(link)} Mbit/s" if rate(link) != "no limit" else "no limit"]
    words += [f"{asked.rtt_ms:g} ms"] * (asked.rtt_ms > 0) + [f"jitter {asked.jitter_ms:g} ms"] * (asked.jitter_ms > 0)
    words += [f"{100 * asked.loss:g} % loss"] * (asked.loss > 0) + [asked.congestion] * (asked.congestion != "cubic")
    return ", ".join([*words, *([link.lab] if link.lab != "namespaces" else [])])


def dimensions(record: Record) -> dict[str, str]:
    """Everything that tells runs of a suite apart, but the rate of the link and the steps a round."""
    link = record.link
    return {
        **({} if link is None else {"rtt": f"{link.asked.rtt_ms:g} ms", "loss": f"{100 * link.asked.loss:g} %"}),
        **({} if link is None else {"TCP": link.asked.congestion, "lab": link.lab}),
        "members": str(record.members),
        **({"method": record.method} if record.method else {}),
        **{name.replace("_", " "): yes(value) if isinstance(value, bool) else str(value) for name, value in record.settings.items()},
    }


def varying(records: Sequence[Record]) -> tuple[list[str], str]:
    """The names of the dimensions in which these records differ, and in words what all have in common."""
    every = [dimensions(record) for record in records]
    names = list(dict.fromkeys(name for one in every for name in one))
    values = {name: {one.get(name, NONE) for one in every} for name in names}
    differ = [name for name in names if len(values[name]) > 1]
    return differ, ", ".join(f"{name} {next(iter(values[name]))}" for name in names if name not in differ)


def troubled(records: Iterable[Record]) -> list[Record]:
    """Those that are not ok, the worst first."""
    return sorted((record for record in records if record.status != OK), key=lambda record: WORST.index(record.status))


def said(record: Record) -> str:
    """Why a record is not ok; a sentence of several lines as one."""
    return f"{record.status}: {' '.join((record.reason or 'no reason given').split())}"
