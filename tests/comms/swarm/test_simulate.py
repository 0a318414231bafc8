"""Many machines in simulated time, with faults: nothing is decided twice, nobody waits for ever, all are together at the end."""

import random
from pathlib import Path
from statistics import median

import pytest

from thinwire.comms.swarm.simulate import TRAPS, Event, Net, Report, simulate
from thinwire.comms.swarm.verify import check


def faults(seed: int, members: int, count: int) -> tuple[list[Event], float]:
    """So many faults, about 1.5 s apart, and a moment after which all is well again."""
    choose = random.Random(seed)
    events: list[Event] = []
    at = 2.0
    for _ in range(count):
        at += choose.expovariate(1 / 1.5)
        i, lasts = choose.randrange(members), choose.choice([0.3, 1.0, 3.0, 6.0])
        kind = choose.choice(["crash", "crash", "pause", "part", "cut", "flap", "slow", "leave", "kill_leader", "join"])
        over: list[Event] = []
        if kind == "crash":
            over = [(at, "crash", i), (at + lasts, "restart", i)]
        elif kind == "pause":
            over = [(at, "pause", i), (at + lasts, "resume", i)]
        elif kind == "part":
            over = [(at, "part", *choose.sample(range(members), choose.randrange(1, members))), (at + lasts, "heal")]
        elif kind == "cut":
            over = [(at, "cut", i, (i + 1) % members), (at + lasts, "mend", i, (i + 1) % members)]
        elif kind == "flap":
            over = [(at, "flap", i)]
        elif kind == "slow":
            over = [(at, "slow", i, choose.choice([2.0, 5.0])), (at + lasts, "slow", i, 1.0)]
        elif kind == "leave":
            over = [(at, "leave", i), (at + lasts + 1.5, "restart", i)]
        elif kind == "kill_leader":
            over = [(at, "kill_leader", choose.choice(TRAPS))] + [(at + lasts + 2, "restart", k) for k in range(members)]
        else:
            over = [(at, "join", members + choose.randrange(3))]
        events += over
    end = at + 7.0
    well: list[Event] = [(end, "heal")]
    for i in range(members + 3):
        well += [(end, "resume", i)] + [(end, "restart", i)] * (i < members)
    return events + well, end


def troubled(seed: int, members: int, count: int) -> Report:
    choose = random.Random(seed)
    net = Net(
        latency_s=choose.choice([0.001, 0.01, 0.08]),
        jitter_s=choose.choice([0, 0.002, 0.05]),
        loss=choose.choice([0, 0, 0.01, 0.05]),
        duplicate=choose.choice([0, 0.02]),
        ordered=choose.random() < 0.7,
        cut_s=choose.choice([None, 0.5]),
        held=choose.random() < 0.5,
    )
    events, end = faults(seed, members, count)
    return simulate(seed=seed, members=members, events=events, seconds=end + 30, net=net)


def test_one_seed_is_one_run() -> None:
    first, again, other = troubled(3, 4, 5), troubled(3, 4, 5), troubled(4, 4, 5)
    assert first.trace == again.trace != other.trace
    assert first.events == again.events


@pytest.mark.parametrize("members", [1, 2, 4, 8])
def test_without_faults_every_round_counts_everybody_and_costs_four_latencies(members: int) -> None:
    report = simulate(seed=1, members=members, seconds=15, net=Net(latency_s=0.01, jitter_s=0))
    report.check()
    assert report.forks == report.rejoins == 0
    assert report.rounds > 30
    assert median(report.latencies_s) <= 0.0401


@pytest.mark.parametrize("state", TRAPS)
def test_leader_dies_in_every_state(state: str) -> None:
    events: list[Event] = [(3.0, "kill_leader", state)]
    if state in ("prepare", "promise"):
        events.append((3.0, "cut", 0, 1))  # so that somebody gives up a leader that is alive
        events.append((6.0, "heal"))
    report = simulate(seed=2, members=5, events=events, seconds=20)
    report.check()
    if state not in ("prepare", "promise"):
        assert [kind for _, kind, *_ in report.events].count("crash") == 1
        assert max(report.gaps_s) < 1.0  # computing is 0.3 s of it


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_costs_less_than_a_second(seed: int) -> None:
    members = 3 + seed
    events = [(at, kind, i) for i in range(members) for at, kind in ((3 + 3.0 * i, "crash"), (4.5 + 3.0 * i, "restart"))]
    report = simulate(seed=seed, members=members, events=events, seconds=3 * members + 12)
    report.check()
    assert report.forks == 0
    assert max(report.gaps_s) < 1.3


def test_silent_stop_costs_one_suspicion() -> None:
    report = simulate(seed=5, members=4, events=[(5.0, "pause", 2), (12.0, "resume", 2)], seconds=25)
    report.check()
    assert report.rejoins == 0
    assert sorted(report.gaps_s)[-2] < 2.5  # the largest is the stopped member's own


def test_minority_goes_on_and_rejoins() -> None:
    report = simulate(seed=6, members=5, events=[(5.0, "part", 3, 4), (12.0, "heal")], seconds=30)
    report.check()
    assert report.forks == 1
    assert report.rejoins >= 2


@pytest.mark.parametrize("seed", range(3))
def test_words_that_were_held_up_by_a_cut_send_nobody_away(seed: int) -> None:
    """One has died, the rest is in three pieces, none of which has a quorum. Afterwards heartbeats arrive in which all of them still had
    one: when these were believed, all went over to what the others had been, and 7 to 12 entries were needed until all were together."""
    events: list[Event] = [(5.0, "crash", 4), (5.01, "part", 0), (5.01, "part", 1), (11.0, "heal")]
    report = simulate(seed=seed, members=5, events=events, seconds=25, net=Net(held=True))
    report.check()
    assert report.rejoins in (2, 3)  # who was alone goes over to the two


def test_members_that_cannot_hear_in_one_direction() -> None:
    simulate(seed=7, members=4, events=[(4.0, "cut", 0, 2), (12.0, "mend", 0, 2)], seconds=25).check()


def test_join_storm_and_its_death() -> None:
    events: list[Event] = [(4.0, "join", i) for i in range(3, 23)]
    events += [(9.0, "crash", i) for i in range(3, 23)]
    report = simulate(seed=8, members=3, events=events, seconds=25)
    report.check()


def test_upload_poor_member() -> None:
    report = simulate(seed=9, members=4, events=[(3.0, "poor", 1, 2), (6.0, "crash", 2), (8.0, "restart", 2)], seconds=20)
    report.check()
    assert max(report.gaps_s) < 1.5


def test_thin_links() -> None:
    net = Net(latency_s=0.04, bandwidth=2.5e6)
    report = simulate(seed=10, members=4, seconds=20, net=net, nbytes=150_000, compute_s=1.0)
    report.check()
    assert median(report.latencies_s) < 3 * (150_000 / 2.5e6 + 2 * 0.08)  # the target: payload / rate + 2 round trips, three times


@pytest.mark.parametrize("seed", range(12))
def test_random_faults(seed: int) -> None:
    troubled(seed, 2 + seed % 4, 8).check()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("members", [2, 3, 4, 6, 8])
def test_many_random_faults(members: int) -> None:
    for seed in range(1000 * members, 1000 * members + 60):
        troubled(seed, members, 15).check()


def test_history_holds_what_the_checker_proves(tmp_path: Path) -> None:
    report = troubled(11, 4, 6)
    report.write(tmp_path)
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations[:3]
    assert verdict.decisions == report.rounds


@pytest.mark.parametrize("members", [20, pytest.param(256, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.timeout(7200)
def test_many_peers(members: int) -> None:
    """A message costs about 30 us of simulating: 1,000 peers take minutes a round."""
    report = simulate(seed=1, members=members, seconds=12, compute_s=4.0, keep=False, grown=True)
    report.check()
    assert report.rounds >= 2
    assert median(report.latencies_s[-members:]) < 0.2
