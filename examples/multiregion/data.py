"""Real text that is on every machine: the sources of Python's standard library, or any files of the user's."""

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.multiregion.model import CONTEXT

NOT_SOURCES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
LONGEST = 200_000  # bytes; what is longer is a table written by a program
HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class Text:
    """Training and validation text, each 1-D uint8; no file is in both."""

    train: Tensor
    validation: Tensor


def load(path: Path | None = None) -> Text:
    """The text under `path` (a file or a folder), or of the standard library; split by a hash of each file's relative path.

    A single file, or files too few to hold some out, is cut at 95 %. Raises `ValueError` when there is too little text.
    """
    root = path or Path(sysconfig.get_path("stdlib"))
    if not root.exists():
        raise ValueError(f"there is no {root}; give a file or a folder of text")
    files = [root] if root.is_file() else sorted(_sources(root) if path is None else (f for f in root.rglob("*") if f.is_file()))
    held_out = [f for f in files if is_held_out(f.relative_to(root).as_posix())]
    validation = _join(held_out)
    train = _join(sorted(set(files) - set(held_out)))
    if min(len(train), len(validation)) <= CONTEXT:
        whole = _join(files)
        train, validation = whole[: len(whole) * 95 // 100], whole[len(whole) * 95 // 100 :]
    if min(len(train), len(validation)) <= CONTEXT:
        raise ValueError(f"{root} holds {len(train) + len(validation)} bytes of text; give at least {40 * CONTEXT}")
    return Text(train, validation)


def is_held_out(name: str) -> bool:
    """Whether the file of this relative path is for validation: the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % HELD_OUT_ONE_IN == 0


def _sources(root: Path) -> Iterable[Path]:
    for file in root.rglob("*.py"):
        if not NOT_SOURCES.intersection(file.relative_to(root).parts) and file.stat().st_size <= LONGEST:
            yield file


def _join(files: Iterable[Path]) -> Tensor:
    joined = bytearray(b"".join(f.read_bytes() for f in files))
    return torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.zeros(0, dtype=torch.uint8)


class Batches:
    """Random sequences of a text, `(size, CONTEXT + 1)` int64 each; the same for the same seed, and resumable.

    >>> Batches(torch.arange(200, dtype=torch.uint8), size=4, seed=1).draw().shape
    torch.Size([4, 129])
    """

    def __init__(self, text: Tensor, *, size: int, seed: int) -> None:
        self._text, self._size = text, size
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> Tensor:
        starts = torch.randint(len(self._text) - CONTEXT, (self._size, 1), generator=self._generator)
        return self._text[starts + torch.arange(CONTEXT + 1)].long()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


def validation_batches(text: Text, *, count: int = 8, size: int = 32) -> list[Tensor]:
    """The fixed sequences on which every run is judged."""
    batches = Batches(text.validation, size=size, seed=20_240_607)
    return [batches.draw() for _ in range(count)]
