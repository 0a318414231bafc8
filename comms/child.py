"""A command that is run to its end for somebody: it gets the signals that this process gets, and ends with it."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

PATIENCE_S = 10.0  # of a script that was asked to end: it may want to save


def run(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run it to its end; its exit status, as a shell would give it. It gets the signals that this process gets, and ends with it."""
    process = subprocess.Popen(command, env=env, preexec_fn=_die_with_parent if sys.platform == "linux" else None)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to the script too
    try:
        status = process.wait()
    finally:
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
