"""What all verbs of the command share: options from a dataclass, what was found said in one of three forms, and an end in one sentence.

    @dataclass(frozen=True)
    class Options(Form):                          # has --json and --plain
        file: tyro.conf.Positional[Path]

    with one_sentence():
        options = parse(Options, argv, __doc__)
        out = options.output()
        out.say("12 tensors", table)              # people and --plain
        out.tell({"tensors": 12})                 # --json

It imports nothing of thinwire, so that every layer can use it; it needs the extra [cli].
"""

import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
WIDTH = 200  # of what is no terminal


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a verb says what it has found."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """JSON, and nothing else on the standard output."""
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Lines for grep and diff: no colours, boxes or live views."""

    def output(self, width: int = WIDTH) -> "Output":
        """`width` is that of tables where the standard output is no terminal. Raises `ValueError` for both forms at once."""
        if self.json and self.plain:
            raise ValueError("--json and --plain are two forms of one output; give one of them")
        return Output(as_json=self.json, plain=self.plain, width=width)


class Output:
    """The standard output in one form. `aside` is for progress and remarks: on the standard error, whatever the form."""

    def __init__(self, *, as_json: bool = False, plain: bool = False, width: int = WIDTH) -> None:
        self.as_json, self.plain = as_json, plain
        self.people = Console(width=None if sys.stdout.isatty() else width)
        still: dict[str, Any] = {"no_color": True, "force_terminal": False} if as_json or plain else {}
        self.aside = Console(stderr=True, width=None if sys.stderr.isatty() else width, **still)

    @property
    def live(self) -> bool:
        """Whether a person looks on: something may be drawn again and again."""
        return not self.as_json and not self.plain and self.people.is_terminal

    def say(self, *shown: Table | Text | str) -> None:
        """For people, or as lines; nothing with --json. A `str` is shown as it is, never taken for markup."""
        for each in shown:
            if self.plain:
                _print("\n".join(lines(each)))
            elif not self.as_json and isinstance(each, Table):
                self.people.print(each)
            elif not self.as_json:
                self.people.print(each, markup=False, highlight=False, soft_wrap=True)

    def tell(self, value: object) -> None:
        """With --json: one line, see `encoded`; else nothing."""
        if self.as_json:
            _print(encoded(value))


def _print(text: str) -> None:
    """At once. Who reads may have had enough, as `head` has: then the command ends like others whose pipe is gone, without a word."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        raise SystemExit(128 + signal.SIGPIPE) from None


def lines(shown: Table | Text | str) -> Iterator[str]:
    """As --plain shows it: of a table the title, the headings and every row, its cells between tabs; no line obeys to a peer.

    >>> list(lines("one\\ntwo\\x1b[31m"))
    ['one', 'two\\\\x1b[31m']
    """
    if isinstance(shown, Table):
        if shown.title:
            yield _bare(shown.title)
        yield "\t".join(_bare(column.header) for column in shown.columns)
        for row in zip(*(column.cells for column in shown.columns), strict=True):
            yield "\t".join(map(_bare, row))
    else:
        yield from map(_printable, (shown.plain if isinstance(shown, Text) else shown).split("\n"))


def encoded(value: object) -> str:
    """JSON in one line. Dataclasses and structs are objects, bytes are hexadecimal, numbers that JSON does not have (NaN, infinity) null.

    >>> encoded({"loss": float("nan"), "key": b"\\x01"})
    '{"loss": null, "key": "01"}'
    """
    return json.dumps(_known(value), allow_nan=False)


def parse(kind: type[T], argv: list[str] | None, doc: str | None, *, program: str | None = None) -> T:
    """Options as `argv` gives them; --help shows `doc`: tyro keeps line breaks where lines are indented.

    What tyro says of wrong options stands in a box, and on one line with --plain or --json.
    """
    words = sys.argv[1:] if argv is None else argv
    boxed = {"--plain", "--json"}.isdisjoint(words)
    said = io.StringIO()
    try:
        with nullcontext() if boxed else redirect_stderr(said):
            return tyro.cli(kind, args=words, description=doc, prog=program or sys.argv[0])
    except SystemExit as ended:
        if boxed or ended.code != 2:
            raise
        raise SystemExit("error: " + " ".join(re.sub("[\u2500-\u257f]", " ", said.getvalue()).split())) from None


@contextmanager
def one_sentence(*expected: type[Exception]) -> Iterator[None]:
    """What options, files, the network or a missing extra do not allow ends the command with cause and remedy, on the standard error."""
    told: tuple[type[Exception], ...] = (*expected, ValueError, OSError, ImportError)
    try:
        yield
    except told as error:
        raise SystemExit(f"error: {error}") from None


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _known(each) for key, each in value.items()}
    if isinstance(value, Sequence | Set):
        return [_known(each) for each in (sorted(value) if isinstance(value, Set) else value)]
    if isinstance(value, Path):
        return str(value)
    names = [field.name for field in fields(value)] if is_dataclass(value) else getattr(value, "__struct_fields__", None)  # msgspec's
    if names is None:
        raise TypeError(f"JSON has nothing for {type(value).__name__}")
    return {name: _known(getattr(value, name)) for name in names}


def _bare(cell: object) -> str:
    """A cell without its markup, on one line."""
    return _printable(cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
