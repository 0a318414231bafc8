"""What it looks like: four peers on this machine train one model over thin links, one of them is killed and comes back.

    thinwire demo
    thinwire demo --seed 3 -o demo.svg       another peer is killed, at another time
    thinwire demo --plain                    lines instead of a table
    thinwire demo --json > demo.json         one JSON object, and nothing else on stdout

As root the links are shaped (a network namespace a peer); else the peers talk over this machine's loopback. It ends with a picture and a
sentence, with exit status 1 if the weights differ or the killed one did not come back; a minute on two cores.
"""

import multiprocessing.forkserver
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.net import LabNet
from benchmarks.chaos.swarm import Swarm
from benchmarks.chaos.watch import Watch
from benchmarks.demo.picture import FORMATS, picture
from benchmarks.demo.run import Demo, DemoError, Plan, clock
from benchmarks.demo.spec import SYNC_EVERY, WORKER, Specs, peer
from benchmarks.demo.story import Story
from benchmarks.demo.view import View
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, open_lab
from benchmarks.suite.options import one_sentence, parse
from thinwire.output import Form

PEERS = 4
MBIT, RTT_MS = 20, 40
LEAST_S = 10.0


@dataclass(frozen=True)
class Options(Form):
    """How long, and what to write."""

    seconds: float = 40.0
    """Of training with all peers there."""
    seed: int = 0
    """Names the run: the weights it starts from, who is killed and when."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo.png")
    """The picture: .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        if not LEAST_S <= self.seconds <= 3600:
            raise ValueError(f"--seconds is {self.seconds:g}; give {LEAST_S:g} to 3600: one is killed, and comes back")
        if self.out.suffix not in FORMATS:
            raise ValueError(f"--out is {self.out}; give a name that ends in {', '.join(FORMATS)}")


@contextmanager
def links(console: Console) -> Iterator[tuple[Lab | None, str]]:
    """Thin links between the peers where this machine and user can have them, and what is between the peers."""
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(open_lab(Topology.uniform(PEERS, mbit=MBIT, rtt_ms=RTT_MS)))
        except LabError as error:
            console.print(f"links: not shaped, the peers talk over this machine's loopback: {error}", markup=False, highlight=False)
            lab = None
        else:
            console.print(f"links: {MBIT} Mbit/s each way, {RTT_MS} ms, a network namespace a peer", highlight=False)
        yield lab, "this machine's loopback" if lab is None else f"links of {MBIT} Mbit/s and {RTT_MS} ms"


def run(options: Options, console: Console) -> Story:
    """One demo, to the end of its last process. Raises `DemoError`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-demo-")))
        fleet = Fleet(WORKER)
        multiprocessing.forkserver.ensure_running()  # it imports while the links are built
        lab, link = stack.enter_context(links(console))
        stack.enter_context(fleet)  # ends before the links
        net = None if lab is None else LabNet(lab)
        story = Story(PEERS, link, SYNC_EVERY)
        specs = Specs(folder, secrets.token_hex(4), net, options.seed)
        swarm = Swarm(fleet, Watch(clock()), PEERS, peer, specs, net=net, clock=clock)
        plain = not options.output().live
        view = stack.enter_context(View(console, story, plain, clock))
        count = (lambda: []) if lab is None else (lambda: [seen.sent for seen in lab.traffic()])
        Demo(swarm, story, Plan.drawn(options.seconds, PEERS, options.seed), view.show, view.say, count).run()
    return story


def refuse_if_missing() -> None:
    """Ends with the remedy where an extra is not installed."""
    for name in ("hivemind", "cryptography", "matplotlib"):
        if find_spec(name) is None:
            raise SystemExit(f"error: no module {name!r}; pip install 'thinwire[swarm,bench]'")


def refuse_unwritable(path: Path) -> None:
    """Ends with cause and remedy where no picture could be written: better known before the run than after."""
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error.strerror}; give another -o") from None
    if not there:
        path.unlink()


def main(argv: list[str] | None = None) -> None:
    began = time.monotonic()
    with one_sentence("interrupted: nothing is left behind"):
        options = parse(Options, argv, __doc__)
        refuse_if_missing()
        refuse_unwritable(options.out)
        out = options.output()
        console = out.aside if options.json else out.people
        try:
            story = run(options, console)
        except DemoError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        console.print(story.sentence(), highlight=False, markup=False, soft_wrap=True)
        picture(options.out, story)
        seconds = time.monotonic() - began
        console.print(f"picture: {options.out} ({seconds:.0f} s in all)", highlight=False, markup=False, soft_wrap=True)
        out.tell(story.as_json() | {"seconds": seconds, "picture": options.out})
    if not story.went_well:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
