"""Addresses of members met before, by run, in a small file: a run is found again when the peers it was joined through are gone."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from thinwire.comms.whole import write_whole

MAX_ADDRESSES = 32  # of a run
MAX_RUNS = 64
_MAX_FILE_NBYTES = 1 << 20


def state_folder() -> Path:
    """Where the user's programs keep what they want to find again."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "thinwire"


class AddressBook:
    """A JSON file {run: [address, ...]}, the newest first; one that cannot be read is as good as empty."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else state_folder() / "addresses.json"

    def recall(self, run: str) -> list[str]:
        """The addresses of a run."""
        return self._read().get(run, [])

    def remember(self, run: str, addresses: Iterable[str]) -> None:
        """Put addresses in front of those of a run; written whole or not at all. A full disk is no reason to stop."""
        book = self._read()
        known = [*dict.fromkeys([*addresses, *book.pop(run, [])])][:MAX_ADDRESSES]
        runs = {run: known, **book}
        text = json.dumps(dict(list(runs.items())[:MAX_RUNS]), indent=1)
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self.path, text.encode())

    def _read(self) -> dict[str, list[str]]:
        try:
            with open(self.path, "rb") as file:
                book = json.loads(file.read(_MAX_FILE_NBYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(book, dict):
            return {}
        return {
            run: [address for address in addresses if isinstance(address, str) and len(address) < 512][:MAX_ADDRESSES]
            for run, addresses in book.items()
            if isinstance(addresses, list)
        }
