"""Reinforcement learning across a WAN: trainers, workers and verifiers that share one buffer of signed, checked rollouts.

    python -m examples.rl launch                                    all of it on this machine, with a live view; ends with a picture
    python -m examples.rl trainer  --config X.toml                  prints its address and key
    torchrun --nproc-per-node 2 -m examples.rl trainer --config X.toml      the same, its weights in shards over both processes
    python -m examples.rl worker   --config X.toml --peers ADDRESS --trainers KEY
    python -m examples.rl verifier --config X.toml --peers ADDRESS --trainers KEY

docs/rl.md tells what the roles do. `--set train.updates=20` changes one value of the file.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
import tyro
from rich.console import Console

from examples.rl import config as configs
from examples.rl.config import Config, ConfigError
from examples.rl.events import Events
from examples.rl.launch import Launch, LaunchError, launch
from examples.rl.messages import LEARNERS
from examples.rl.network import Network
from examples.rl.picture import draw, sentence
from examples.rl.trained import RankError, Trained, check
from thinwire import SwarmGroup
from thinwire.comms.swarm.identity import Identity, IdentityFileError
from thinwire.comms.swarm.transport import PeerError

HERE = Path(__file__).parent
FOUND_S, AGAIN_S, LOOK_S = 3.0, 30.0, 0.5  # of looking for learners before the first begins, and before it begins once more
FIND_S = 60.0  # for the trainer of a worker to be reached


@dataclass(frozen=True)
class Options:
    """One role of a run, or all of them."""

    role: tyro.conf.Positional[Literal["launch", "trainer", "worker", "verifier"]]
    config: Path = HERE / "tiny.toml"
    """What is learnt, and how."""
    folder: Path | None = None
    """For the key, checkpoints and logs of this process; a temporary one unless given."""
    peers: tuple[str, ...] = ()
    """Addresses of any process of the run."""
    listen: tuple[str, ...] = ()
    """Addresses to listen on instead of those in the file: /ip4/0.0.0.0/tcp/7000"""
    trainers: tuple[str, ...] = ()
    """Public keys whose weights count, beside those in the file."""
    verifiers: tuple[str, ...] = ()
    """Public keys whose verdicts count, beside those in the file."""
    set: tuple[str, ...] = ()
    """Values of the file to change: train.updates=20"""
    workers: int = 2
    """How many `launch` starts."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("rl.png")
    """Where `launch` draws."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print events as JSON."""
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    """No live view."""

    def read(self) -> Config:
        """The configuration as this process is to have it. Raises `ConfigError`."""
        keys = {"network.trainers": self.trainers, "network.verifiers": self.verifiers}
        network = {"network.initial_peers": self.peers, "network.listen": self.listen} | keys
        return configs.load(self.config, changes(self.set) | {name: list(values) for name, values in network.items() if values})


def changes(words: Sequence[str]) -> dict[str, Any]:
    """Values as --set gives them, by name. Raises `ConfigError`."""
    found: dict[str, Any] = {}
    for pair in words:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set got {pair!r}; say NAME=VALUE, such as train.updates=20")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """As TOML would read it; a word is itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = tyro.cli(Options, args=argv, description=__doc__, prog="python -m examples.rl")
    torch.set_num_threads(1)  # two threads on busy cores are six times slower
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _end)
    try:
        config = options.read()
        if options.role == "trainer" and ranks() > 1:
            check(config)
            if rank():
                return follow(config)
        with ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-rl-")))
            folder.mkdir(parents=True, exist_ok=True)
            (run_all if options.role == "launch" else run_role)(options, config, folder)
    except (ConfigError, LaunchError, IdentityFileError, PeerError, RankError, ModuleNotFoundError) as error:
        if isinstance(error, ConfigError) and rank():
            sys.exit(1)  # rank 0 says it
        sys.exit(f"{options.role}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{options.role}: interrupted")


def _end(*_: object) -> None:
    if ranks() == 1:
        raise SystemExit(0)
    raise SystemExit(1 if rank() else "trainer: ended by torchrun, which names the rank that has failed if one has")


def run_all(options: Options, config: Config, folder: Path) -> None:
    """`launch`."""
    console = Console()
    view = launch(Launch(config, options.config, folder, workers=options.workers, changes=options.set), console, plain=options.plain)
    console.print(view)
    draw(options.output, view)
    console.print(sentence(view, options.workers), highlight=False)
    console.print(f"picture: {options.output}", highlight=False)


def run_role(options: Options, config: Config, folder: Path) -> None:
    """One process of a run."""
    events = Events(options.role, as_json=options.json)
    role: Literal["trainer", "worker", "verifier"] = options.role  # type: ignore[assignment]  # launch is not one
    net = config.network
    identity = Identity.load_or_create(folder / "key")
    with Network(config.run, role, identity=identity, initial_peers=net.initial_peers, listen=net.listen) as network:
        events.say("listening", address=network.addresses[0], key=identity.key.hex())
        ROLES[role](config, network, folder, events)


def trainer(config: Config, network: Network, folder: Path, events: Events) -> None:
    """Learn until all updates are done."""
    from examples.rl.trainer import Stopped, Trainer

    lead = leading(config) if ranks() > 1 else None
    group = learners(config, network, folder) if config.learners.count > 1 and config.learners.average else None
    made = Trainer(config, network, folder, events, group=group, lead=lead)
    try:
        made.run()
    except Stopped:
        pass
    finally:
        made.close()
        if lead is not None:
            lead.close()
        if group is not None:
            group.leave()


def rank() -> int:
    """Of this process in torchrun's world; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def ranks() -> int:
    """How many there are in torchrun's world; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def leading(config: Config) -> Trained:
    """Rank 0 of a trainer over several ranks."""
    from examples.rl.ranks import Lead
    from examples.rl.sharded import World

    return Lead(World.join(config.task.device), config)


def follow(config: Config) -> None:
    """Another rank of a trainer, until rank 0 ends."""
    from examples.rl.ranks import Part
    from examples.rl.sharded import World

    Part(World.join(config.task.device), config).follow()


def learners(config: Config, network: Network, folder: Path) -> SwarmGroup:
    """The swarm in which learners average: others say where it is, and the first of the keys begins it where nobody does."""
    first = bool(config.trainers) and config.trainers[0] == network.identity.key
    again = (folder / "learner-key").exists() and bool(config.network.initial_peers)  # it was one: the others may have gone on
    until = time.monotonic() + (FIND_S if not first else AGAIN_S if again else FOUND_S)
    known: list[str] = []
    while not known and time.monotonic() < until:
        for key in network.peers("trainer"):
            try:
                known += msgspec.msgpack.decode(network.ask(key, LEARNERS, b""), type=list[str])[:8]
            except (PeerError, msgspec.DecodeError):
                continue
        time.sleep(LOOK_S)
    if not known and not first:
        raise PeerError("no learner", f"none was reached in {FIND_S:.0f} s; start the first of the trainers' keys first")
    identity = Identity.load_or_create(folder / "learner-key")
    group = SwarmGroup(f"{config.run}/learners", known or None, identity=identity, listen=config.network.listen)
    told = msgspec.msgpack.encode(group.addresses())

    async def tell(peer: bytes, request: bytes) -> bytes:
        return told

    network.serve(LEARNERS, tell)
    return group


def worker(config: Config, network: Network, folder: Path, events: Events) -> None:
    """Sample until nobody listens."""
    from examples.rl.worker import Worker

    trainer = found(config, network)
    Worker(config, network, events, trainer=trainer).run()


def verifier(config: Config, network: Network, folder: Path, events: Events) -> None:
    """Look at groups until nobody listens."""
    from examples.rl.verifier import Verifier

    Verifier(config, network, events, trainer=found(config, network)).run()


def found(config: Config, network: Network) -> bytes:
    """The first trainer to be reached whose key is named. Raises `ConfigError` when none is named, `PeerError` for none in time."""
    pinned = set(config.trainers)
    if not pinned:
        raise ConfigError("no trainer is named, and weights of strangers do not count: give --trainers KEY (the trainer prints it)")
    if not network.wait_for(lambda: bool(pinned & set(network.peers("trainer"))), FIND_S):
        raise PeerError("no trainer", f"none of {len(pinned)} was reached in {FIND_S:.0f} s; give --peers with an address that it printed")
    return next(key for key in network.peers("trainer") if key in pinned)


ROLES: dict[str, Callable[[Config, Network, Path, Events], None]] = {"trainer": trainer, "worker": worker, "verifier": verifier}

if __name__ == "__main__":
    main()
