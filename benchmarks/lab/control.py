"""Talk to the relay over its UNIX socket, from any namespace: a path is the same file everywhere."""

import json
import os
import socket
import threading
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.lab.namespaces import LabError

ANSWER_S = 30.0
_numbers = count()


class Control:
    """One client; `path` is the relay's socket, which a region's programs find in `THINWIRE_LAB`.

    >>> Control.from_env().ask("counts")  # doctest: +SKIP
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        self._own = (folder or path.parent) / f"client-{os.getpid()}-{next(_numbers)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(ANSWER_S)
        self._socket.bind(str(self._own))
        self._lock = threading.Lock()

    @classmethod
    def from_env(cls) -> "Control":
        """Of the lab that this program runs in; raises `LabError` outside of one."""
        if "THINWIRE_LAB" not in os.environ:
            raise LabError("THINWIRE_LAB is not set: this program does not run in a region of a lab")
        return cls(Path(os.environ["THINWIRE_LAB"]))

    def ask(self, op: str, **arguments: Any) -> Any:
        """One command and its answer; raises `LabError` when the relay is gone or refuses."""
        try:
            with self._lock:
                self._socket.sendto(json.dumps({"op": op, **arguments}).encode(), str(self.path))
                reply = json.loads(self._socket.recv(1 << 20))
        except OSError as error:
            raise LabError(f"the relay does not answer ({error}): it was killed; open the lab anew") from None
        if "error" in reply:
            raise LabError(f"the relay refuses {op!r}: {reply['error']}")
        return reply["ok"]

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        self._own.unlink(missing_ok=True)
