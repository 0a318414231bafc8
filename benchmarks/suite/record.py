"""One JSONL line a run: what was run, over which link (asked and measured), what it took, and what made the number; checked on reading."""

import errno
import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from statistics import median

import msgspec
import torch
from msgspec import Struct

from benchmarks.suite import provenance
from benchmarks.suite.provenance import RESULTS as RESULTS
from benchmarks.suite.provenance import ROOT as ROOT

OK, FAILED, VOID, ABSENT = "ok", "failed", "void", "absent"  # void: the link was not what was asked; absent: cannot run here


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the links: rates in Mbit/s each way (None: no limit), round trip and jitter in ms, share of packets lost each way."""

    topology: str
    up_mbit: float | None = None
    down_mbit: float | None = None
    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    congestion: str = "cubic"


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """What the probe found before the run: the worst region or pair of each."""

    up_mbit: float | None = None
    down_mbit: float | None = None
    rtt_ms: float | None = None
    worst_error: float = 0.0  # the greatest relative difference from what was asked


class Link(Struct, frozen=True, forbid_unknown_fields=True):
    """`lab` is where bytes moved: "namespaces" (shaped, counted by the kernel), "loopback" (counted, not shaped), "simulated" (neither)."""

    lab: str
    asked: Asked
    measured: Measured | None = None


class Bytes(Struct, frozen=True, forbid_unknown_fields=True):
    """A member's, mean over members. `payload` is what the codec made, `ledger` what the library says it handed to the transport,
    `interface` what the kernel counted, `wire` the same as IP packets of 1500 bytes (the lab's relay cuts super-packets)."""

    payload_sent: float | None = None
    ledger_sent: float | None = None
    interface_sent: float | None = None
    interface_received: float | None = None
    wire_sent: float | None = None
    wire_received: float | None = None
    counted_by: str = ""


class Percentiles(Struct, frozen=True, forbid_unknown_fields=True):
    """Of durations in seconds."""

    p50: float
    p95: float
    p99: float
    n: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Percentiles":
        """Of at least one duration; the nearest rank."""
        found = sorted(seconds)
        p50, p95, p99 = (found[min(len(found) - 1, int(len(found) * share))] for share in (0.5, 0.95, 0.99))
        return cls(p50, p95, p99, len(found))


class Point(Struct, frozen=True, forbid_unknown_fields=True):
    """Of a learning curve: validation loss after so many steps, training seconds (evaluation not in them) and bytes sent a member."""

    step: int
    loss: float
    wall_s: float
    sent: float


class Made(Struct, frozen=True, forbid_unknown_fields=True):
    """What made the number."""

    time: str
    command: str
    commit: str
    torch: str
    python: str
    machine: str
    cpus: int
    load: float  # of the machine, one minute's average, when it was written

    @classmethod
    def now(cls) -> "Made":
        """Here, from this checkout."""
        return cls(
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=provenance.command(),
            commit=provenance.commit(),
            torch=str(torch.__version__),
            python=platform.python_version(),
            machine=f"{platform.machine()} {_processor()}",
            cpus=len(os.sched_getaffinity(0)),
            load=round(os.getloadavg()[0], 2),
        )


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run.

    - `suite`: "training", "collectives", "utilisation", "scaling"; `key` names the run within it: a run with the same key replaces it.
    - `status`: "ok", "failed", "void" (the link was off by more than 5 %) or "absent"; `reason` says why it is not "ok".
    - `numel`: parameters exchanged; `members`: how many; `sync_every`: steps a round (1: every step).
    - `seconds`: durations by phase; `settings`: everything else that tells runs apart.
    - `numbers`: what only this suite has (busbw_gbs, utilisation, residual, loss ...); `checks`: what had to hold, and whether it did.
    """

    suite: str
    key: str
    status: str
    made: Made
    reason: str | None = None
    method: str = ""
    label: str = ""
    members: int = 1
    numel: int = 0
    sync_every: int = 1
    steps: int = 0
    seed: int | None = None
    link: Link | None = None
    bytes: Bytes | None = None
    seconds: dict[str, Percentiles] = {}
    numbers: dict[str, float | None] = {}
    checks: dict[str, bool] = {}
    curve: list[Point] = []
    settings: dict[str, str | int | float | bool | None] = {}


class ResultsError(ValueError):
    """A results file that cannot be read or written; the message names file, line, cause and remedy."""


def append(path: Path, record: Record) -> Record:
    """Write one line at the end of `path`, after what a crash left of the one before is taken away.

    Raises `ResultsError` when the disk does not take it whole: what was written of it is taken back.
    """
    line = msgspec.json.encode(record) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:  # a buffer would be written once more on closing
            end = _next_line(file)
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    return record


def _next_line(file: FileIO) -> int:
    """Where it begins: a last line that is cut off goes, one that lacks nothing but its end gets it."""
    file.seek(0)
    whole = file.readall()
    last = whole.rpartition(b"\n")[2]
    if not last:
        return len(whole)
    try:
        msgspec.json.decode(last, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return file.truncate(len(whole) - len(last))
    return len(whole) + file.write(b"\n")


def refuse_unwritable(path: Path) -> None:
    """Raises `ResultsError` when nothing could be appended to `path`: better known before an hour of measuring than after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    if not path.is_file():
        raise _unwritable(path, "it is no regular file")


def _unwritable(path: Path, why: str) -> ResultsError:
    return ResultsError(f"cannot write {path}: {why}; free some space or give another --results")


def read(path: Path, *, strict: bool = True) -> list[Record]:
    """The newest record of every key, in order of first appearance; none when there is no file.

    A last line without its end is what a crash leaves: it is not counted. Raises `ResultsError` naming the line for anything else that is
    no record; with `strict=False` such lines are left out.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ResultsError(f"cannot read {path}: it is no regular file; give the file of a suite")
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror or error}") from None
    newest: dict[tuple[str, str], Record] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line, type=Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number == len(lines) or not strict:
                continue
            raise ResultsError(f"{path}, line {number} is no record: {error}; mend or delete that line") from None
        newest[record.suite, record.key] = record
    return list(newest.values())


def middle(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    found = sorted(values)
    return median(found), found[0], found[-1]


def key_of(*parts: object, **settings: object) -> str:
    """A key from what tells runs apart, in any order of the settings.

    >>> key_of("diloco", "seed 0", codec="none", sync_every=10)
    'diloco seed 0 codec=none sync_every=10'
    """
    return " ".join([*(str(part) for part in parts if str(part)), *(f"{name}={value}" for name, value in sorted(settings.items()))])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip() for line in (info.read_text().splitlines() if info.exists() else []) if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
