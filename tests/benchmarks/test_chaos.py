"""The chaos harness itself, with toy members that need no network: it strikes what the plan says, sees what it must, leaves nothing."""

import io
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.chaos import rows
from benchmarks.chaos.doom import Doom
from benchmarks.chaos.faults import KINDS, LEADER_STATES, plan
from benchmarks.chaos.fleet import MARK, Fleet, left_behind
from benchmarks.chaos.nemesis import Nemesis
from benchmarks.chaos.net import Net, can_cut
from benchmarks.chaos.run import Chaos, ChaosError
from benchmarks.chaos.simulated import events_of, play
from benchmarks.chaos.swarm import Swarm
from benchmarks.chaos.watch import Done, Watch
from benchmarks.lab.namespaces import inside
from benchmarks.suite.record import OK, append, read
from tests.benchmarks.chaos_toy import ToySpecs, failing, toy, toy_bootstrap
from thinwire.comms.swarm.verify import check

HERE = [name for name, kind in KINDS.items() if not kind.cuts]


# -- the plan ------------------------------------------------------------------------------------------------------------------


def test_a_plan_follows_from_its_seed() -> None:
    assert plan(7, 50, KINDS) == plan(7, 50, KINDS)
    assert plan(7, 50, KINDS) != plan(8, 50, KINDS)
    assert plan(7, 100, KINDS)[:50] == plan(7, 50, KINDS)


def test_a_long_plan_has_every_kind_and_every_state_of_the_leader() -> None:
    faults = plan(0, 1000, KINDS)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.state for fault in faults if fault.kind == "leader"} == set(LEADER_STATES)
    assert all(fault.seconds in KINDS[fault.kind].seconds and 0 <= fault.pick < 1 for fault in faults)
    assert {fault.kind for fault in plan(0, 200, ["kill"])} == {"kill"}


# -- the watch -----------------------------------------------------------------------------------------------------------------


def watched(*names: str) -> Watch:
    watch = Watch(0.0)
    for name in names:
        watch.born(name, 0.0)
        watch.joined(name, 1.0, 1.0)
    return watch


def applied(watch: Watch, name: str, at: float, round: int, state: str = "s", epoch: str = "e", steps: int = 0) -> None:
    watch.round(name, at, round=round, epoch=epoch, state=state, steps=steps)


def test_a_hang_is_no_round_for_ten_seconds_while_a_member_is_up() -> None:
    watch = watched("a", "b")
    applied(watch, "a", 2.0, 0)
    assert watch.look(11.9) is None
    assert watch.look(12.1) == "no round for 10.1 s; up: a at 0, b at -1"
    assert watch.look(22.0) is None  # told once, then counted anew
    assert watch.look(22.2)
    assert len(watch.hangs) == 2


def test_nobody_hangs_while_all_are_frozen() -> None:
    watch = watched("a")
    watch.froze("a", 5.0, True)
    assert watch.look(100.0) is None
    watch.froze("a", 105.0, False)
    assert watch.look(114.0) is None
    assert watch.look(115.1)


def test_recovery_is_from_the_kill_to_the_next_round_that_anybody_applies() -> None:
    watch = watched("a", "b", "c")
    applied(watch, "a", 2.0, 0)
    watch.wounded(3.0, "kill")
    applied(watch, "b", 3.1, 0)  # an old round, late
    applied(watch, "b", 4.5, 1)
    applied(watch, "c", 4.6, 1)
    assert watch.recoveries == {"kill": [1.5]}
    assert watch.rounds == 2


def test_the_first_of_several_kills_waits_for_the_same_reason_as_the_last() -> None:
    watch = watched("a", "b", "c")
    watch.wounded(1.0, "kill")
    applied(watch, "a", 1.5, 0)
    watch.wounded(3.0, "kill")
    watch.wounded(3.1, "kill")
    watch.worsened("few are left")
    applied(watch, "c", 5.0, 1)
    assert watch.recoveries == {"kill": [0.5], "few are left": [2.0, pytest.approx(1.9)]}


def standing(size: int) -> tuple[Swarm, list[Any]]:
    """A swarm of members that are no processes, and what stands for them."""
    names = [f"m{i}" for i in range(size)]
    members = [SimpleNamespace(name=name, identity=name, ending=False, frozen=False, extra=False, signal=lambda _: None) for name in names]
    net = SimpleNamespace(cut=lambda *_: None, heal=lambda: None, link=lambda *_, up: None)
    swarm = Swarm(
        SimpleNamespace(members=dict(zip(names, members, strict=True))), watched(*names), size, None, None, net=net, clock=lambda: 2.0
    )
    swarm._places = {name: i for i, name in enumerate(names)}
    return swarm, members


@pytest.mark.parametrize(
    ("beside", "few"),
    [
        (lambda swarm, m: None, False),
        (lambda swarm, m: swarm.freeze(m[1], True), False),
        (lambda swarm, m: (swarm.freeze(m[1], True), swarm.freeze(m[2], True)), True),
        (lambda swarm, m: swarm.cut([m[1]]), False),
        (lambda swarm, m: swarm.cut([m[1], m[2]]), True),
        (lambda swarm, m: swarm.cut([m[1]], [m[2]]), False),
        (lambda swarm, m: (swarm.cut([m[1]]), swarm.freeze(m[2], True)), True),
        (lambda swarm, m: swarm.link(m[1], up=False), False),
        (lambda swarm, m: (swarm.link(m[1], up=False), swarm.freeze(m[2], True)), True),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_counts_apart_where_no_majority_runs_and_reaches_each_other(beside: Any, few: bool, before: bool) -> None:
    swarm, members = standing(5)
    for act in (beside, lambda swarm, m: swarm.kill(m[0])) if before else (lambda swarm, m: swarm.kill(m[0]), beside):
        act(swarm, members)
    swarm.watch.round("m4", 2.5, round=1, epoch="e", state="s", steps=5)
    assert swarm.watch.recoveries == {"few are left" if few else "kill": [0.5]}


def test_two_states_of_one_round_are_divergent_but_not_in_two_epochs() -> None:
    watch = watched("a", "b", "c")
    applied(watch, "a", 2.0, 4, "x")
    applied(watch, "b", 2.0, 4, "x")
    applied(watch, "c", 2.0, 4, "y", epoch="other")
    applied(watch, "c", 2.0, 5, "")  # it did not verify that round
    assert not watch.divergent
    applied(watch, "c", 2.0, 4, "y")
    assert watch.divergent == {("e", 4)}


def test_the_rate_counts_steps_over_the_time_as_a_member() -> None:
    watch = watched("a", "b")
    applied(watch, "a", 2.0, 0, steps=100)
    before = watch.done(11.0)
    applied(watch, "a", 12.0, 1, steps=120)
    applied(watch, "b", 12.0, 1, steps=10)
    watch.ended("b", 12.0)
    after = watch.done(13.0) - before
    assert after == Done(steps=30, member_s=3.0, wall_s=2.0)
    assert after.rate == pytest.approx(10)
    assert Done().rate == 0


def test_what_is_kept_is_told_of_members_that_are_there_and_of_the_swarm(tmp_path: Path) -> None:
    with Fleet() as fleet:
        run = chaos(tmp_path, fleet, 0)
    run.calm, run.done = Done(1000, 100.0, 30.0), Done(2500, 260.0, 100.0)
    assert rows.kept(run) == {"throughput_kept": round(2500 / 260 / 10, 4), "work_kept": round(2500 / (10 * 100 * 3), 4)}
    run.calm = Done()
    assert rows.kept(run) == {"throughput_kept": None, "work_kept": None}


# -- the run -------------------------------------------------------------------------------------------------------------------


def chaos(folder: Path, fleet: Fleet, events: int, *, size: int = 3, wrong: str = "", kinds: list[str] = HERE) -> Chaos:
    now = time.monotonic()
    swarm = Swarm(fleet, Watch(now), size, toy, ToySpecs(folder, now, wrong), bootstrap=toy_bootstrap)
    return Chaos(swarm, plan(1, events, kinds), calm_rounds=3)


def test_a_run_strikes_all_its_faults_heals_and_verifies(tmp_path: Path) -> None:
    with Fleet() as fleet:
        run = chaos(tmp_path, fleet, 15)
        run.run()
    watch = run.watch
    assert watch.struck.total() + len(run.missed) == 15
    assert not run.missed
    assert not watch.hangs
    assert not run.stuck
    assert not watch.divergent
    assert sum(map(len, watch.recoveries.values())) > 3
    assert run.done.rate > 0
    assert 0 < run.calm.wall_s < run.seconds
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations[:3]
    assert verdict.checked["same state"] > 100
    settings: dict[str, str | int | float | bool | None] = {"events": 15, "members": 3, "seed": 1}
    kept = rows.record(run, verdict, [], settings)
    assert kept.status == OK, kept.reason
    assert sum(count or 0 for name, count in kept.numbers.items() if name.startswith("struck: ")) == 15
    append(tmp_path / "chaos.results", kept)
    assert read(tmp_path / "chaos.results") == [kept]
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(rows.table([kept, rows.record(run, verdict, [123], settings)]))
    told = console.export_text()
    assert "15 events, 3 members, seed 1" in told
    assert "green" in told
    assert "not so: no processes left" in told


def test_a_member_with_another_state_is_seen_by_the_watch_and_by_the_checker(tmp_path: Path) -> None:
    with Fleet() as fleet:
        run = chaos(tmp_path, fleet, 3, wrong="m1", kinds=["kill"])
        run.run()
    assert run.watch.divergent
    assert {violation.law for violation in check(tmp_path).violations} == {"same state"}


def test_a_script_that_fails_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    with Fleet() as fleet:
        swarm = Swarm(fleet, Watch(time.monotonic()), 2, failing, ToySpecs(tmp_path, 0.0))
        with pytest.raises(ChaosError, match="the script has a bug"):
            Chaos(swarm, []).run()
        assert fleet.members
    assert not fleet.members


def test_what_a_run_leaves_behind_is_found_by_its_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"test-{os.getpid()}"
    assert left_behind(mark) == []
    process = subprocess.Popen(["cat"], env={MARK: mark}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()  # before that, /proc may show it with no environment yet
        assert left_behind(mark) == [process.pid]
    finally:
        process.kill()
        process.communicate()
    assert left_behind(mark) == []


# -- the death of a leader -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    to: tuple[str, ...]
    message: object


class Propose: ...


class Accept: ...


class Decided: ...


class Machine:
    """What a round machine looks like from outside; this one is about to lead round 7."""

    is_member = True
    next_slot = SimpleNamespace(round=7)

    def __init__(self) -> None:
        self._seat = SimpleNamespace(me=b"a")
        self._round = SimpleNamespace(ballots=SimpleNamespace(leader=lambda ballot: b"a"))

    def receive(self, sender: str, message: object) -> list[object]:
        return [Decided()] if isinstance(message, Accept) else [Send(("x", "y", "z", "w"), Propose())]

    def __getattr__(self, name: str) -> object:
        if name in ("start", "holds", "up", "down", "tick", "leave"):
            return lambda *_: []
        raise AttributeError(name)


class Killed(Exception):
    pass


def doomed(state: str, round: int = 7) -> tuple[Any, list[str]]:
    told: list[str] = []

    def kill() -> None:
        raise Killed

    doom, machine = Doom(told.append, kill), Machine()
    doom.watch(machine)
    doom.state, doom.round = state, round
    return machine, told


@pytest.mark.parametrize(
    ("state", "act"),
    [
        ("start", lambda m: m.start()),
        ("propose before", lambda m: m.receive("x", None)),
        ("accept heard", lambda m: m.receive("x", Accept())),
        ("apply", lambda m: m.receive("x", Accept())),
    ],
)
def test_a_leader_dies_at_once(state: str, act: Callable[[Any], Any]) -> None:
    machine, told = doomed(state)
    with pytest.raises(Killed):
        act(machine)
    assert told == [state]


@pytest.mark.parametrize(("state", "reached"), [("propose half", ("x", "y")), ("propose after", ("x", "y", "z", "w"))])
def test_a_leader_dies_when_what_it_sent_is_on_its_way(state: str, reached: tuple[str, ...]) -> None:
    machine, told = doomed(state)
    assert machine.receive("x", None)[0].to == reached
    assert not told
    with pytest.raises(Killed):
        machine.tick()


def test_only_the_leader_of_the_round_dies_and_not_before_it() -> None:
    later, _ = doomed("propose before", round=8)
    assert later.receive("x", None)
    follower, _ = doomed("propose before")
    follower._seat.me = b"b"
    assert follower.receive("x", None)
    nobody, _ = doomed("")
    assert nobody.receive("x", Accept())


# -- the simulator -------------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_same_to_the_bit_in_the_simulator_and_its_histories_verify(tmp_path: Path) -> None:
    faults = plan(3, 25, KINDS)
    first, verdict = play(faults, 4, 3, tmp_path / "a")
    again, _ = play(faults, 4, 3, tmp_path / "b")
    other, _ = play(faults, 4, 4, tmp_path / "c")
    assert first.trace == again.trace != other.trace
    assert not first.broken
    assert verdict.green, verdict.violations[:3]
    assert verdict.checked["same state"] > 300


def test_events_of_the_simulator_are_in_order_and_everybody_comes_back() -> None:
    events = events_of(plan(0, 300, KINDS), 4)
    assert [event[0] for event in events] == sorted(event[0] for event in events)
    for i in range(4):
        mine = [event[1] for event in events if event[1] in ("crash", "leave", "restart", "pause", "resume") and event[2] == i]
        assert mine[-1] in ("restart", "resume")


# -- networks ------------------------------------------------------------------------------------------------------------------


def reaches(net: Net, a: int, b: int) -> bool:
    """Whether a TCP connection from place a to place b is answered (refused: nobody listens)."""
    with inside(net.namespace(a)), socket.socket() as line:
        line.settimeout(0.3)
        try:
            line.connect((net.address(b), 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return True


@pytest.mark.skipif(not can_cut(), reason="network namespaces need root, iproute2 and nftables")
def test_places_are_cut_off_and_healed_and_gone_at_the_end() -> None:
    with Net(3) as net:
        assert reaches(net, 0, 1)
        net.cut([0], [1])
        assert not reaches(net, 0, 1)
        assert not reaches(net, 1, 0)
        assert reaches(net, 0, 2)
        assert reaches(net, 2, 1)
        net.heal()
        net.cut([0])
        assert not reaches(net, 0, 1)
        assert not reaches(net, 1, 0)
        assert reaches(net, 1, 2)
        net.heal()
        assert reaches(net, 0, 1)
        net.link(0, up=False)
        assert not reaches(net, 0, 1)
        net.link(0, up=True)
        assert reaches(net, 1, 2)
        name = net.namespace(0)
    assert name not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not can_cut(), reason="network namespaces need root, iproute2 and nftables")
def test_what_a_killed_run_has_left_is_taken_down_by_the_next() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = f"twc{gone.pid}-0"
    subprocess.run(["ip", "netns", "add", left], check=True)
    with Net(1):
        assert left not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_the_last_member_is_spared() -> None:
    told: dict[str, list[tuple[Any, ...]]] = {"a": [], "b": []}
    members = [SimpleNamespace(name=name, ending=False, tell=lambda *words, name=name: told[name].append(words)) for name in told]
    nemesis = Nemesis(SimpleNamespace(up=lambda: members, last_round=lambda: 4), lambda: 0.0)  # type: ignore[arg-type]
    fault = next(fault for fault in plan(0, 200, KINDS) if fault.kind == "leader")
    assert nemesis.strike(fault)
    nemesis.tend()
    assert nemesis.armed is fault
    members[0].ending = True  # another fault has killed it
    nemesis.tend()
    assert nemesis.armed is None
    assert told["b"] == [("die", fault.state, 6), ("die", "", -1)]
    assert not nemesis.strike(fault)
    assert not any(nemesis.strike(each) for each in plan(0, 200, KINDS) if each.kind in ("kill", "freeze", "leave", "all but one"))
