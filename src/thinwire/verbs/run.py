"""Run a training script on several machines with the WAN kept out of WORLD_SIZE: frameworks see their own region only.

    thinwire run -- torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 train.py
    thinwire run --region process -- torchrun --standalone --nproc-per-node 4 train.py

Every machine is a region (`--region node`) in which DDP, FSDP2, accelerate or Lightning work as on one machine; the optimizer,
`thinwire.DiLoCo(opt)`, exchanges with its counterparts on the others. With `--region process` every process is one, to try it here.
The exit status is torchrun's.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from thinwire.comms import region
from thinwire.comms.child import run

LAUNCHERS = ("torchrun", "torch.distributed.run")


def wrapped(command: list[str]) -> list[str]:
    """The command with this package's region.py between torchrun and the script. Raises `ValueError` when it does not start torchrun."""
    launcher = launcher_of(command)
    words = command[len(launcher) :]
    options, script = words[: -len(tail)] if (tail := script_of(words)) else words, tail
    if not script:
        raise ValueError("torchrun got no script; say: thinwire run -- torchrun --nnodes 2 ... train.py")
    python = [sys.executable, "-u"]
    if "-m" in options or "--module" in options:
        options = [word for word in options if word not in ("-m", "--module")]
        script = [*python, "-m", *script]
    elif "--no-python" in options or "--no_python" in options:
        options = [word for word in options if word not in ("--no-python", "--no_python")]
    else:
        script = [*python, *script]
    return [*launcher, *options, "--no-python", sys.executable, str(Path(region.__file__).resolve()), *script]


def launcher_of(command: list[str]) -> list[str]:
    """The words that start torchrun: itself, or `python -m torch.distributed.run`."""
    if command and Path(command[0]).name == LAUNCHERS[0]:
        return command[:1]
    if len(command) > 2 and command[1:3] == ["-m", LAUNCHERS[1]]:
        return command[:3]
    raise ValueError(
        f"{command[0] if command else 'nothing'!r} is not torchrun; say: thinwire run -- torchrun --nnodes 2 ... train.py "
        "(a script that one process runs needs no `thinwire run`)"
    )


def script_of(words: list[str]) -> list[str]:
    """The script and its arguments, as torchrun itself would tell them from its options."""
    from torch.distributed.run import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        told = parser.parse_args(words)
    except (argparse.ArgumentError, SystemExit):
        raise ValueError(f"torchrun does not understand: {' '.join(words)}") from None
    return [told.training_script, *told.training_script_args]


def free_port() -> int:
    """A port of this machine's loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def parser() -> argparse.ArgumentParser:
    """Of what stands before `--`."""
    made = argparse.ArgumentParser(sys.argv[0], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--region", choices=(region.NODE, region.PROCESS), default=region.NODE, help="what is a region")
    return made


def main(argv: list[str]) -> None:
    """Run what stands after `--`."""
    at = argv.index("--") if "--" in argv else len(argv)
    options = parser().parse_args(argv[:at])
    try:
        command = wrapped(argv[at + 1 :])
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    env = os.environ | {region.REGION: options.region, region.PORT: str(free_port())}
    try:
        status = run(command, env)
    except FileNotFoundError:
        raise SystemExit(f"error: there is no {command[0]!r} here; torch brings it along: is its environment the active one?") from None
    if status:
        raise SystemExit(status)
