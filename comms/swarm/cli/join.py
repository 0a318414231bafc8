"""Run a training script as a member of a swarm: it sets what `SwarmGroup.from_env()` reads, and ends the script with itself.

    thinwire join tw1... -- python train.py
    thinwire join tw1... --history runs/history -- torchrun --nproc-per-node 2 train.py

The script says `thinwire.DiLoCo(opt, group=SwarmGroup.from_env())`. Its exit status is the command's.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import tyro

from thinwire.comms.swarm.invite import HISTORY, IDENTITY, INVITE, Invite
from thinwire.output import one_sentence, parse

PATIENCE_S = 10.0  # of a script that was asked to end: it may want to save


@dataclass(frozen=True)
class Options:
    """The swarm; what stands after -- is run."""

    invite: tyro.conf.Positional[str]
    """The string that `thinwire serve` or `thinwire invite` printed."""
    identity: Path | None = None
    """This member's key file, made by `thinwire keygen` (default: a fresh key)."""
    history: Path | None = None
    """Folder for this member's history, for `thinwire verify`."""


def environment(options: Options) -> dict[str, str]:
    """What the script finds. Raises `ValueError` for a wrong invite, `OSError` when there is no such key file."""
    Invite.parse(options.invite)
    env = os.environ | {INVITE: options.invite}
    for name in (IDENTITY, HISTORY):
        env.pop(name, None)  # of a join around this one
    if options.identity is not None:
        options.identity.open("rb").close()
        env[IDENTITY] = str(options.identity.resolve())
    if options.history is not None:
        env[HISTORY] = str(options.history.resolve())
    return env


def run(command: list[str], env: dict[str, str]) -> int:
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


def main(argv: list[str]) -> None:
    """Run what stands after `--`."""
    at = argv.index("--") if "--" in argv else len(argv)
    command = argv[at + 1 :]
    with one_sentence():
        options = parse(Options, argv[:at], __doc__)
        if not command:
            raise ValueError("what is to be run? say: thinwire join INVITE -- python train.py")
        status = run(command, environment(options))
    if status:
        raise SystemExit(status)
