"""Run a training script as a member of a swarm: it sets what `SwarmGroup.from_env()` reads, and ends the script with itself.

    thinwire join tw1... -- python train.py
    thinwire join tw1... --history runs/history -- torchrun --nproc-per-node 2 train.py

The script says `thinwire.DiLoCo(opt, group=SwarmGroup.from_env())`. Its exit status is the command's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from thinwire.comms.child import run
from thinwire.comms.swarm.invite import HISTORY, IDENTITY, INVITE, Invite
from thinwire.output import one_sentence, parse


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
