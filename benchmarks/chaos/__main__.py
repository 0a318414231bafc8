"""Kill, freeze, cut and fill up members of a swarm that trains on this machine, then prove from their histories that nothing went wrong.

    thinwire chaos --events 50
    thinwire chaos --events 1000 --members 6 --seed 3
    thinwire chaos --events 50 --lab home            over four homes' links (root)
    thinwire chaos --events 1000 --seed 3 --simulate the same plan in the simulator, to the bit the same every time

Members are processes that train a tiny model with thinwire.DiLoCo over SwarmGroup; a step sleeps so that few processors carry many.
Faults that cut networks need root. The seed names the run: the same seed gives the same plan of faults.
"""

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.chaos import rows, simulated
from benchmarks.chaos.faults import KINDS, plan
from benchmarks.chaos.fleet import Fleet, left_behind
from benchmarks.chaos.net import Net, Places, can_cut, open_lab_net
from benchmarks.chaos.run import Chaos, ChaosError
from benchmarks.chaos.specs import WORKER, Specs, bootstrap, member
from benchmarks.chaos.swarm import Swarm
from benchmarks.chaos.watch import Watch
from benchmarks.suite.command import put
from benchmarks.suite.options import held, one_sentence, parse
from benchmarks.suite.record import OK, RESULTS, Record, append, refuse_unwritable
from benchmarks.suite.runs import RunError
from thinwire.comms.swarm.verify import check
from thinwire.output import Form, Output

EXTRAS = 6
LEFT_S = 5.0  # for what a killed process has started to end too


@dataclass(frozen=True)
class Options(Form):
    """How much, to whom, and where."""

    events: int = 50
    members: int = 4
    seed: int = 0
    kinds: tuple[str, ...] = ()
    """Faults to draw from; all that this machine can, unless given."""
    lab: str = ""
    """A topology of the lab, such as home, for links that are thin and lossy."""
    every: float = 0.0
    """Seconds from one fault to the next, at least; without it they come as soon as the swarm has healed."""
    step_ms: float = 10.0
    """What a training step takes."""
    sync_every: int = 5
    """Steps of a round."""
    calm_rounds: int = 20
    """Rounds before the first fault and after the last, against which throughput is measured."""
    history: Path | None = None
    """Folder to keep the histories in."""
    simulate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Play the plan in the simulator."""
    results: Path = RESULTS / "chaos.jsonl"
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print what the results file holds."""

    def __post_init__(self) -> None:
        if self.events < 0 or self.members < 2 or not self.step_ms >= 0 or self.sync_every < 1 or not self.every >= 0:
            raise ValueError("give at least 2 --members, 1 --sync-every, and no negative numbers")
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"there is no fault {unknown[0]!r}; known are {', '.join(KINDS)}")

    def chosen(self) -> list[str]:
        """Kinds of faults to draw from."""
        cuts = self.simulate or can_cut()
        kinds = self.kinds or [name for name, kind in KINDS.items() if cuts or not kind.cuts]
        if not cuts and any(KINDS[kind].cuts for kind in kinds):
            raise ValueError("faults that cut networks need root, iproute2 and nftables; leave out cut and flap")
        return list(kinds)

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What tells runs apart."""
        named = {"events": self.events, "members": self.members, "seed": self.seed, "step_ms": self.step_ms, "sync_every": self.sync_every}
        given = {"kinds": ",".join(self.kinds), "lab": self.lab, "every": self.every, "simulate": self.simulate}
        return {**named, **{name: value for name, value in given.items() if value}}


@contextmanager
def places(options: Options) -> Iterator[Places | None]:
    """Networks of the members, where faults or links ask for them."""
    wanted = options.members + EXTRAS + 1
    if options.lab:
        with open_lab_net(options.lab, wanted) as net:
            yield net
    elif any(KINDS[kind].cuts for kind in options.chosen()):
        with Net(wanted) as plain:
            yield plain
    else:
        yield None


def run(options: Options, out: Output) -> Record:
    """One run, from the first process to the verdict. Raises `RunError` when it could not go on."""
    mark = secrets.token_hex(4)
    faults = plan(options.seed, options.events, options.chosen())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-chaos-")))
        history = options.history or folder / "history"
        net = stack.enter_context(places(options))
        fleet = stack.enter_context(Fleet(WORKER))
        specs = Specs(folder, history, mark, net, options.step_ms / 1e3, options.sync_every)
        swarm = Swarm(fleet, Watch(time.monotonic()), options.members, member, specs, bootstrap, net, EXTRAS)
        chaos = Chaos(swarm, faults, lambda line: aside(out, line), options.every, options.calm_rounds)
        try:
            chaos.run()
        except ChaosError as error:
            raise RunError(str(error)) from None
        fleet.__exit__()
        left = remaining(mark)
        verdict = check(history)
    aside(out, *map(str, verdict.violations[:10]), *chaos.stuck, *chaos.watch.hangs)
    return rows.record(chaos, verdict, left, options.settings())


def aside(out: Output, *lines: str) -> None:
    """What happens on the way, and what went wrong."""
    for line in lines:
        out.aside.print(line, markup=False, highlight=False, soft_wrap=True)


def remaining(mark: str) -> list[int]:
    """Processes that are still there after a while."""
    until = time.monotonic() + LEFT_S
    while (found := left_behind(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted"):
        options = parse(Options, argv, __doc__)
        out = options.output()
        if options.show:
            put(out, "chaos", held(options.results, "chaos"), options.results, lambda found: [rows.table(list(found))])
            return
        refuse_unwritable(options.results)
        aside(out, f"seed {options.seed}: {options.events} events, {options.members} members")
        if options.simulate:
            made, lines = simulated.record(plan(options.seed, options.events, options.chosen()), options.settings())
            aside(out, *lines)
        else:
            made = run(options, out)
        append(options.results, made)
    put(out, "chaos", [made], options.results, lambda found: [rows.table(list(found)), f"faults: {rows.struck(made)}"])
    if made.status != OK:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
