"""Train one GPT in several regions: the dense baseline, then thinwire, from the same start and on the same text.

    torchrun --standalone --nproc-per-node 4 examples/multiregion/train.py
    torchrun ... examples/multiregion/train.py --method demo
    torchrun ... examples/multiregion/train.py --codec int4 --sync-every 20 --data my/texts
    python examples/multiregion/train.py --swarm

Every process is a region; docs/two-machines.md shows how a second machine joins. With --swarm regions come and go, and no launcher is
needed: the first one prints what the next one pastes (docs/swarm.md).
"""

import io
import logging
import os
import pickle
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

if not __package__:  # started as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import tyro
from torch.optim import AdamW

from examples.multiregion.board import Board, gather
from examples.multiregion.counters import sent_nbytes
from examples.multiregion.data import Batches, Text, load, validation_batches
from examples.multiregion.model import GPT
from examples.multiregion.region import Dense, Ended, Progress, Region, Thin, optimizer, saved_steps
from examples.multiregion.report import Outcome, outcome, picture, sentence

POINTS = 10  # of the curve
LABELS = {"ddp": "dense baseline", "diloco": "thinwire.DiLoCo", "demo": "thinwire.DeMo"}


@dataclass(frozen=True)
class Options:
    """How to train."""

    method: Literal["diloco", "demo", "ddp"] = "diloco"
    """diloco: an exchange every --sync-every steps; demo: every step; ddp: only the dense baseline."""
    codec: str | None = None
    """What goes over the link: none, int8, int4, dct-topk, blockmax64, ... (default: the method's own)."""
    sync_every: int | None = None
    """Steps between exchanges of diloco."""
    steps: int = 200
    warm_steps: int = 400
    """Steps of one region alone before all start from its weights."""
    batch: int = 4
    """Sequences of 128 bytes per region and step."""
    seed: int = 0
    data: Path | None = None
    """Your own text, a file or a folder (default: the sources of Python's standard library)."""
    swarm: str | None = None
    """Train in a swarm: an invite to join by; without one the region founds a run, or takes the invite of `thinwire join`."""
    baseline: bool = True
    """Run the dense baseline first."""
    save: Path | None = None
    """Folder to save into at the end and every --save-every steps: one file a region."""
    save_every: int = 50
    resume: Path | None = None
    """Folder of a saved run to go on with, to the bit; --steps is the total."""
    out: Path = Path("runs/multiregion")
    """Folder of report.png and the ledger."""
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Plain lines instead of a live table."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warm_steps < 0 or self.batch < 1 or self.save_every < 1:
            raise ValueError("--steps, --batch and --save-every are positive, --warm-steps is not negative")
        if self.swarm is not None and (self.method == "ddp" or self.save or self.resume):
            raise ValueError("--swarm is for --method diloco and demo; the others' state takes the place of --save and --resume")
        if self.method != "diloco" and self.sync_every is not None:
            raise ValueError(f"--sync-every {self.sync_every} is for --method diloco; {self.method} exchanges every step")
        if self.method == "ddp" and self.codec is not None:
            raise ValueError(f"--codec {self.codec} is for --method diloco and demo; ddp sends float32")
        if self.method != "ddp":
            optimizer(torch.nn.Linear(1, 1), self.method, self.chosen())  # what it refuses, before any training

    def chosen(self) -> dict[str, Any]:
        """Options of the optimizer that are not left to it."""
        options = {"codec": self.codec, "sync_every": self.sync_every}
        return {name: value for name, value in options.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """What a resumed run must share with the saved one."""
        shared = {name: getattr(self, name) for name in ("method", "codec", "sync_every", "batch", "seed")}
        return shared | {"data": str(self.data) if self.data else None}


@dataclass(frozen=True)
class World:
    """All regions: who we are, and the store through which they talk beside the training."""

    store: dist.Store
    rank: int
    size: int
    one_machine: bool


def main() -> None:
    torch.set_num_threads(1)
    try:
        options = tyro.cli(Options, args=with_invite(sys.argv[1:]), description=__doc__)
        text = load(options.data)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if options.swarm is not None:
        join(options, text)
        return
    world = meet()
    if options.plain and world.rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    start = GPT() if options.resume else warm_start(options, text, world)
    with_baseline = options.baseline and options.method != "ddp" and options.resume is None
    outcomes = [run(method, options, text, start, world) for method in ["ddp"] * with_baseline + [options.method]]
    thin, dense = outcomes[-1], outcomes[0] if with_baseline else None
    if world.rank == 0:
        report(options, thin, dense)
    if not thin.identical:
        raise SystemExit(1)


def with_invite(words: list[str]) -> list[str]:
    """A --swarm that nothing follows has an empty invite.

    >>> with_invite(["--swarm", "--steps", "5"])
    ['--swarm', '', '--steps', '5']
    """
    found = []
    for word, following in pairwise([*words, "--"]):
        found += [word, ""] if word == "--swarm" and following.startswith("--") else [word]
    return found


def join(options: Options, text: Text) -> None:
    """Train as one region of a swarm, from the common start or from where the others are."""
    from examples.multiregion import elastic

    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    chosen = options.chosen()
    assert options.swarm is not None
    try:
        elastic.train(
            options.swarm, options.method, chosen, text, steps=options.steps, batch=options.batch, seed=options.seed, out=options.out
        )
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: no module {error.name!r}; pip install 'thinwire[swarm,cli]'") from None
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def meet() -> World:
    """Find the others in torchrun's environment."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise SystemExit(f"error: {name} is not set; start with: torchrun --standalone --nproc-per-node 4 {sys.argv[0]} (or --swarm)")
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=timedelta(minutes=30))))
    return World(dist.PrefixStore("multiregion", store), rank, size, os.environ.get("LOCAL_WORLD_SIZE") == str(size))


def warm_start(options: Options, text: Text, world: World) -> GPT:
    """A model that has learnt a little: region 0 trains it alone and gives it to the others."""
    torch.manual_seed(options.seed)
    gpt = GPT()
    if world.rank == 0:
        opt = AdamW(gpt.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        batches = Batches(text.train, size=2 * options.batch, seed=1000 * options.seed)
        with Board(world.store, 0, 1, title="warm start, region 0 alone", steps=options.warm_steps, plain=options.plain) as board:
            for step in range(options.warm_steps):
                opt.zero_grad()
                loss = gpt.loss(batches.draw())
                loss.backward()
                opt.step()
                board.post(Progress("warm", step + 1, float(loss.detach())))
        blob = io.BytesIO()
        torch.save(gpt.state_dict(), blob)
        world.store.set("warm", blob.getvalue())  # type: ignore[arg-type]  # bytes pass, the stub says str
    gpt.load_state_dict(torch.load(io.BytesIO(world.store.get("warm")), weights_only=True))
    return gpt


def run(method: str, options: Options, text: Text, start: GPT, world: World) -> Outcome:
    """One method from the common start to the end, in this region; the outcome is of all regions."""
    gpt = GPT()
    gpt.load_state_dict(start.state_dict())
    if method == "ddp":
        link: Dense | Thin = Dense(gpt, dist.PrefixStore("dense", world.store), world.rank, world.size)
    else:
        ledger = options.out / f"ledger-{world.rank}.jsonl"
        if options.resume is None:
            ledger.unlink(missing_ok=True)
        link = Thin(gpt, method, options.chosen() | {"log": ledger})
    batches = Batches(text.train, size=options.batch, seed=1000 * options.seed + world.rank + 1)
    region = Region(gpt, link, batches, validation_batches(text), Progress(method), world.size)
    if options.resume:
        resume(region, options, world)
    gather(world.store, f"ready/{method}", world.rank, world.size, None)
    before = loopback(world)
    with Board(world.store, world.rank, world.size, title=LABELS[method], steps=options.steps, plain=options.plain) as board:
        train(region, method, options, world, board)
        told = gather(world.store, f"ended/{method}", world.rank, world.size, asdict(region.end()))
    after = loopback(world)
    counted = None if before is None or after is None or options.resume else after - before
    return outcome(LABELS[method], [Ended(**ended) for ended in told], counted)


def resume(region: Region, options: Options, world: World) -> None:
    """Load the newest step that every region has saved: a crash may have come between two regions' saves."""
    assert options.resume is not None
    mine = saved_steps(options.resume, world.rank)
    everywhere = set.intersection(*(set(steps) for steps in gather(world.store, "saved", world.rank, world.size, mine)))
    if not everywhere:
        raise SystemExit(f"error: {options.resume} holds no step that all {world.size} regions have saved (region {world.rank}: {mine})")
    try:
        region.load(options.resume, world.rank, max(everywhere), options.settings())
    except (ValueError, KeyError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise SystemExit(f"error: cannot resume from {options.resume}: {str(error).splitlines()[0]}") from None


def train(region: Region, method: str, options: Options, world: World, board: Board) -> None:
    """The steps, with points of the curve and saved states on the way."""
    for progress in region.train(options.steps):
        board.post(progress)
        if progress.step * POINTS // options.steps > (progress.step - 1) * POINTS // options.steps:
            region.mark(world.rank)
        if options.save and method == options.method and (progress.step % options.save_every == 0 or progress.step == options.steps):
            region.save(options.save, world.rank, options.settings())


def loopback(world: World) -> int | None:
    """Bytes that all regions have sent, when they are on this machine and its system counts them."""
    try:
        return sent_nbytes("lo") if world.one_machine else None
    except LookupError:
        return None


def report(options: Options, thin: Outcome, dense: Outcome | None) -> None:
    """The sentence and the picture."""
    print(sentence(thin, dense), flush=True)
    try:
        picture(options.out / "report.png", [run for run in (dense, thin) if run])
    except ImportError:
        print("no picture: pip install matplotlib")
    else:
        print(f"picture: {options.out / 'report.png'}")


if __name__ == "__main__":
    main()
