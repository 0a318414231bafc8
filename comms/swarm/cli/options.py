"""What all verbs share: options from a dataclass, and an end in one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console

T = TypeVar("T")
KEY_FILE = Path.home() / ".config" / "thinwire" / "identity.key"  # where a member's key lies when nobody says otherwise


def parse(kind: type[T], argv: list[str] | None, doc: str | None) -> T:
    """Options as `argv` gives them; --help shows `doc`."""
    return tyro.cli(kind, args=argv, description=doc, prog=sys.argv[0])


def console() -> Console:
    """Of the standard output; as wide as its lines where that is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 200)


@contextmanager
def one_sentence(*expected: type[Exception]) -> Iterator[None]:
    """What the options, the files or the network do not allow ends the command with cause and remedy."""
    told: tuple[type[Exception], ...] = (*expected, ValueError, OSError)
    try:
        yield
    except told as error:
        raise SystemExit(f"error: {error}") from None
