"""What a member did, one JSON line an event: the history that `verify` proves a run from.

    history = History(folder, member=key, nonce=nonce)
    history.append("begin", digest=epoch, round=7, before=state)
    for event in read(folder): ...

One file an incarnation (a restarted member is another one), so a line that a kill or a full disk tore is always the last of its file. A
file that has grown full is followed by the next segment, and beyond the cap the oldest segments but the first go. A disk that takes no
line never breaks training: lost lines are counted, told once, and declared in the next line that is written.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

log = logging.getLogger("thinwire")

Kind = Literal["join", "epoch", "begin", "have", "commit", "apply", "skip", "fail", "rejoin", "refuse", "leave"]
SEGMENT_NBYTES, SEGMENTS = 32 << 20, 8  # 256 MiB an incarnation: about half a million events
MAX_LINE_NBYTES = 1 << 20
_NAME = re.compile(r"([0-9a-f]+-[0-9a-f]+)(?:\.(\d+))?\.jsonl")


class HistoryError(ValueError):
    """A history that cannot be read; the message names file and line."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line. Keys and hashes are hex; a field that an event does not have stays at its default.

    - `seq` counts an incarnation's events; `lost` is how many before this one a full disk has cost.
    - `epoch`, `digest`: the lineage that decided, or in which it happened. `round`, `fragment`: the slot; of "join", "rejoin" and "epoch"
      the next one to be decided. `ballot`: in which it was.
    - `before`, `after`: hashes of the whole shared state; of "join" and "rejoin" `after` is what was adopted.
    - `counted`: digest of the payload by member, of what counts ("commit"), was applied ("apply") or is held ("have").
    - `skipped`: why, by member. `members`: who decides the next slot. `chain`: hash of this decision and all before it; of "epoch" of the
      decision it goes on from, and `parent` is the epoch it leaves.
    - `sent`, `received`: bytes that the member reports for this event; `sent_counted`, `received_counted`: what its transport has counted
      since the incarnation began.
    - `why`: what failed, or was refused, or sent the member away ("rejoin").
    """

    kind: Kind
    seq: int
    member: str
    nonce: str
    wall: float  # seconds since 1970
    mono: float  # seconds, of this machine
    lost: int = 0
    epoch: int = 0
    digest: str = ""
    round: int = -1
    fragment: int = 0
    ballot: int = 0
    before: str = ""
    after: str = ""
    counted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    members: list[str] = []
    chain: str = ""
    parent: str = ""
    sent: int | None = None
    received: int | None = None
    sent_counted: int | None = None
    received_counted: int | None = None
    why: str = ""


class Place(NamedTuple):
    """Where a line stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class History:
    """The file of one incarnation, in `folder`; safe to use from several threads.

    Raises `OSError` when the folder cannot be made; afterwards nothing that the disk does is raised.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with History(folder, member=b"k" * 32, nonce=b"n" * 8) as history:
    ...         history.append("join", round=3, after=b"state")
    ...     [(event.kind, event.round, event.after) for event in read(folder)]
    [('join', 3, '7374617465')]
    """

    def __init__(
        self, folder: str | Path, *, member: bytes, nonce: bytes, segment_nbytes: int = SEGMENT_NBYTES, segments: int = SEGMENTS
    ) -> None:
        if segment_nbytes < 1 or segments < 2:
            raise ValueError(f"{segments} segments of {segment_nbytes} bytes; give at least 2, of at least 1 byte")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lost = 0
        self._member, self._nonce = member.hex(), nonce.hex()
        self._limits = segment_nbytes, segments
        self._segment, self._size, self._seq, self._undeclared = 0, 0, 0, 0
        self._fd: int | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()

    @property
    def path(self) -> Path:
        """The segment that is written to."""
        return self._path(self._segment)

    def append(self, kind: Kind, **fields: Any) -> None:
        """Write one event; `bytes` become hex. Raises `TypeError` for a field that `Event` lacks, and nothing that the disk does."""
        fields = {name: _plain(value) for name, value in fields.items()}
        with self._lock:
            if self._closed:
                return
            event = Event(
                kind=kind, seq=self._seq, member=self._member, nonce=self._nonce, wall=time.time(), mono=time.monotonic(),
                lost=self._undeclared, **fields,
            )  # fmt: skip
            self._seq += 1
            try:
                self._write(self._encoder.encode(event) + b"\n")
                self._undeclared = 0
            except OSError as error:
                self._lose(error)

    def close(self) -> None:
        """End the file; later events are dropped."""
        with self._lock:
            self._closed = True
            self._shut()

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, segment: int) -> Path:
        return self.folder / f"{self._member[:16]}-{self._nonce}{f'.{segment}' if segment else ''}.jsonl"

    def _write(self, line: bytes) -> None:
        if self._fd is not None and self._size + len(line) > self._limits[0] and self._size:
            self._turn()
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._fd).st_size
        written = os.write(self._fd, line)  # one write a line: a kill leaves whole lines
        if written != len(line):
            self._turn()  # what was written of it is a torn last line
            raise OSError("no space left for a whole line")
        self._size += written

    def _turn(self) -> None:
        """Go on in the next segment. The first stays: it tells where the incarnation began."""
        self._shut()
        self._segment += 1
        old = self._segment - self._limits[1] + 1
        if old > 0:
            self._path(old).unlink(missing_ok=True)

    def _shut(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _lose(self, error: OSError) -> None:
        if not self.lost:
            log.error("history: cannot write %s: %s; training goes on, lost lines are counted", self.path, error)
        self.lost += 1
        self._undeclared += 1


def read(folder: str | Path) -> Iterator[Event]:
    """All events of all members, file by file, each in its order. Raises `HistoryError` like `read_placed`."""
    return (event for _, event in read_placed(folder))


def read_placed(folder: str | Path) -> Iterator[tuple[Place, Event]]:
    """Events with where they stand.

    A torn last line is no event. Raises `HistoryError` when there is no history, or a line is none in any other place.
    """
    folder = Path(folder)
    segments = sorted((match[1], int(match[2] or 0), path) for path in folder.glob("*.jsonl") if (match := _NAME.fullmatch(path.name)))
    if not segments:
        raise HistoryError(f"{folder} holds no history (files like 0123abcd-4567cdef.jsonl); give the folder that members write to")
    decoder = msgspec.json.Decoder(Event)
    for _, _, path in segments:
        yield from _events(path, decoder)


def _events(path: Path, decoder: "msgspec.json.Decoder[Event]") -> Iterator[tuple[Place, Event]]:
    with path.open("rb") as file:
        for number in range(1, 1 << 62):
            line = file.readline(MAX_LINE_NBYTES)
            if not line:
                return
            place = Place(path.name, number)
            if not line.endswith(b"\n") and not file.read(1):  # torn
                return
            try:
                yield place, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise HistoryError(f"{place} is no event: {error}") from None


def _plain(value: Any) -> Any:
    """Keys and hashes as hex, wherever they stand."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [_plain(item) for item in value]
    return value
