"""The suite of reinforcement learning: what it refuses, what a record holds, and (slow) what must hold on one seed."""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from torch import Tensor

import benchmarks.rl.run
from benchmarks.rl.__main__ import Options, due, main, measured, record_of, table, verdicts
from benchmarks.rl.judged import judging
from benchmarks.rl.proposed import Leveled
from benchmarks.rl.rows import ROWS, Row, checks
from benchmarks.rl.run import run
from benchmarks.rl.start import warm_start
from benchmarks.suite.record import FAILED, OK, Made, Percentiles, Point, Record, append, read
from examples.rl.environment import Task, task_seed
from examples.rl.rollout import Completion, RolloutGroup
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny
from examples.rl.warmup import Warmup, warm_up

SORT = Sort(3)


class Easy(Sort):
    """A first digit below 5 is right: so that a policy that has hardly begun is rewarded now and then."""

    def reward(self, task: Task, completion: str) -> float:
        return float(completion[:1] in set("01234"))


def small() -> Tiny:
    return Tiny(width=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    policy = small()
    warm_up(policy, SORT, seed=0, options=Warmup(steps=30, batch=16, lr=5e-3))
    weights: dict[str, Tensor] = policy.module.state_dict()
    return weights


def brief(start: dict[str, Tensor], **options: Any) -> Any:
    return run(Row("r", "r", **({"groups": 2} | options)), Easy(3), start, seed=0, updates=4, every=2, policy=small)


def template(row: Row, **changes: Any) -> Record:
    made = next(each.template for each in due(Options(rows=(row.name,), seeds=(0,), updates=10)))
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rows": ("nonsense",)}, "no row is called 'nonsense'; choose of stale-0"),
        ({"updates": 5}, "at least 10"),
        ({"seeds": ()}, "one seed"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Options(**given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"proposed": "in turn", "staleness": 1}, "on policy"),
        ({"groups": 0}, "at least 1"),
        ({"staleness": -1}, "at least 0"),
        ({"foreign": 1}, "1 foreign groups"),
        ({"codec": "int4"}, "nobody"),
    ],
)
def test_rows_that_cannot_be_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Row("r", "r", **given)


def test_a_run_follows_from_its_arguments(start: dict[str, Tensor]) -> None:
    one, same, stale = brief(start), brief(start), brief(start, staleness=1)
    assert one[0].accuracy == same[0].accuracy
    assert list(one[0].accuracy) == [0, 2, 4]
    assert one[0].sha256 == same[0].sha256 != stale[0].sha256
    assert one[0].groups == 8


def test_rollouts_are_as_old_as_the_row_says(start: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    ages: list[int] = []
    learn = benchmarks.rl.run.Place.learn

    def watched(place: Any, groups: Any) -> None:
        ages.append(place.version - groups[0].version)
        learn(place, groups)

    monkeypatch.setattr(benchmarks.rl.run.Place, "learn", watched)
    brief(start, staleness=2)
    assert ages == [0, 1, 2, 2]


def test_learners_that_average_end_with_the_same_bits_and_count_their_bytes(start: dict[str, Tensor]) -> None:
    seen = brief(start, learners=2, codec="int4", sync_every=2)
    assert len({one.sha256 for one in seen}) == 1
    assert len({one.sha256 for one in brief(start, learners=2)}) == 2
    numel = sum(p.numel() for p in small().module.parameters())
    assert all(numel < one.sent < 1.5 * numel for one in seen)  # two rounds of half a byte each, and headers


def test_shared_groups_are_trained_on_and_counted(start: dict[str, Tensor]) -> None:
    seen = brief(start, learners=2, groups=2, foreign=1)
    assert [one.groups for one in seen] == [12, 12]
    assert all(0 < one.sent < 20_000 for one in seen)


def test_judges_reward_what_they_say_and_one_that_shouts_decides_a_mean_only() -> None:
    environment = Sort(3)
    task = environment.task(task_seed("r", bytes(32), 0, 0))
    completions = tuple(
        Completion.of(np.zeros(1, np.int64), np.zeros(1, np.float32), finished=True, text=text)
        for text in (task.answer, *(f"{i}\n" for i in range(7)))
    )
    group = RolloutGroup("r", bytes(32), 0, 0, environment.name, bytes(32), task.prompt, b"", completions, (0.0,) * 8)
    rewards = {how: judging(how, environment)(group).rewards for how in ("nobody", "honest", "median", "mean")}
    assert rewards["nobody"] == group.rewards
    for how in ("honest", "median"):
        assert max(rewards[how]) == rewards[how][0] <= 1
        assert min(rewards[how]) >= 0
    assert min(rewards["mean"]) == rewards["mean"][0] < -100


@pytest.mark.parametrize(
    ("how", "family", "levels"),
    [
        ("in turn", "sort", [2, 3, 4, 5]),
        ("hardest", "sort", [8, 8, 8, 8]),
        ("proposer", "sort", None),
        ("in turn", "addition", [1, 2, 3, 4]),
        ("proposer", "addition", None),
    ],
)
def test_levels_are_named_as_the_row_says_and_heard_of(start: dict[str, Tensor], how: Any, family: Any, levels: list[int] | None) -> None:
    row = Row("r", "r", groups=2, proposed=how, family=family)
    [seen] = run(row, SORT, start, seed=0, updates=4, every=2, policy=small)
    named = [each["level"] for each in seen.numbers]
    assert named == levels or levels is None
    assert set(named) <= set({"sort": range(2, 9), "addition": range(1, 5)}[family])
    assert all(0 <= each["solve_rate"] <= 1 for each in seen.numbers)
    again = run(row, SORT, start, seed=0, updates=4, every=2, policy=small)
    assert [each["level"] for each in again[0].numbers] == named


def test_the_proposer_goes_where_half_is_solved() -> None:
    course = Leveled("proposer", "sort", seed=0)

    def groups(version: int) -> list[RolloutGroup]:
        environment = course.choose(version)
        right = {2: 16, 3: 14, 4: 8, 5: 2}.get(course.level, 0)
        task = environment.task(task_seed("proposer", bytes(32), version, 0))
        rewards = (1.0,) * right + (0.0,) * (16 - right)
        return [RolloutGroup("proposer", bytes(32), version, 0, environment.name, bytes(32), task.prompt, b"", (), rewards)]

    rates = []
    for version in range(30):
        course.hear(version, groups(version))
        rates.append(course.solve_rate)
    assert 0.3 <= sum(rates[20:]) / 10 <= 0.7


def test_a_record_says_what_learners_have_seen_and_whether_they_agree(start: dict[str, Tensor]) -> None:
    row = ROWS["average-int4"]
    seen = brief(start, learners=2, codec="int4", sync_every=2)
    made = record_of(template(row), seen)
    assert made.status == OK
    assert made.numbers["accuracy_4"] == pytest.approx((seen[0].accuracy[4] + seen[1].accuracy[4]) / 2)
    assert [point.step for point in made.curve] == [0, 2, 4]
    assert msgspec.json.decode(msgspec.json.encode(made), type=Record) == made
    seen[1].sha256 = "another"
    assert record_of(template(row), seen).status == FAILED


def test_the_warm_start_is_made_once_and_again_when_anything_that_makes_it_changes(tmp_path: Path) -> None:
    few = Warmup(steps=1, batch=2)
    first = warm_start(SORT, seed=0, options=few, folder=tmp_path)
    [file] = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = warm_start(SORT, seed=0, options=few, folder=tmp_path)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert file.stat().st_mtime_ns == written
    warm_start(SORT, seed=1, options=few, folder=tmp_path)
    warm_start(SORT, seed=0, options=Warmup(steps=1, batch=3), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def fake(name: str, seed: int, accuracy: float, **numbers: float) -> Record:
    told = {f"accuracy_{at}": accuracy for at in (0, 20, 40, 60, 80)} | {"mismatch_kl": 0.01, "entropy": 0.3} | numbers
    curve = [Point(80, 1 - accuracy, 1.0, 0.0)]
    made = Record(
        suite="rl",
        curve=curve,
        key=f"{name} {seed}",
        status=OK,
        made=Made.now(),
        method=name,
        label=ROWS[name].label,
        steps=80,
        numbers=told,
    )
    return replace(made, seconds={"cpu": Percentiles.of([1.0])})


def test_the_table_and_the_verdicts_are_of_medians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [fake("stale-0", seed, accuracy) for seed, accuracy in enumerate((0.1, 0.75, 0.9))]
    records += [fake("stale-16-own", 0, 0.45), fake("average-int4", 0, 0.9, ddp_over_sent=79.0)]
    out = io.StringIO()
    Console(file=out, width=250).print(table(records))
    assert "0.750 (0.100 - 0.900)" in out.getvalue()
    assert verdicts(records) == [
        "yes  on policy: >= .70 after 60 updates",
        "NO   staleness 16 without < .4",
        "yes  2 learners averaged in int4 >= .83",
        "yes  int4 averaging sends <= 1/50 of DDP's bytes",
    ]
    for each in records:
        append(tmp_path / "rl.jsonl", each)
    main(["--show", "--results", str(tmp_path / "rl.jsonl")])
    assert "on policy: >= .70" in capsys.readouterr().out


def test_nothing_is_promised_of_rows_that_were_not_measured() -> None:
    assert checks({}, None, {}) == {}


def test_each_seed_of_the_proposer_has_to_solve_about_half() -> None:
    def held(*rates: float | None) -> list[bool]:
        return list(checks({}, None, {"sums-proposer": rates}).values())

    assert [held(0.3, 0.7), held(0.5, 0.8), held(0.2), held(None)] == [[True], [False], [False], []]
    assert list(checks({}, None, {"levels-proposer": [0.5]})) == ["levels-proposer: .3 to .7 are solved in updates 21 to 30"]


def test_what_was_measured_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: dict[str, Tensor]) -> None:
    def quickly(row: Row, *args: Any, **options: Any) -> Any:
        return brief(start)

    monkeypatch.setattr(benchmarks.rl.__main__, "run", quickly)
    monkeypatch.setattr(benchmarks.rl.__main__, "warm_start", lambda *args, **options: start)
    main(["--rows", "stale-0", "--seeds", "0", "1", "--updates", "10", "--results", str(tmp_path / "rl.jsonl")])
    assert [each.seed for each in read(tmp_path / "rl.jsonl")] == [0, 1]
    assert measured(ROWS["stale-0"], template(ROWS["stale-0"])).status == OK


def test_stale_rollouts_teach_with_importance_weights_and_ruin_without_in_miniature() -> None:
    torch.set_num_threads(1)

    def smaller() -> Tiny:
        return Tiny(width=48, layers=2, heads=2)

    policy = smaller()
    warm_up(policy, SORT, seed=0, options=Warmup(steps=300, batch=32, lr=4e-3))
    taught: dict[str, Tensor] = policy.module.state_dict()

    def accuracy(ratio: Any) -> float:
        row = Row("r", "r", groups=8, staleness=8, ratio=ratio)
        [seen] = run(row, SORT, taught, seed=0, updates=30, every=30, lr=2e-3, policy=smaller)
        return seen.accuracy[30]

    assert accuracy("behaviour") >= 0.4  # .52; from .22
    assert accuracy("own") < 0.3  # .03


@pytest.fixture(scope="module")
def taught() -> dict[str, Tensor]:
    return warm_start(Sort(), seed=0)


def accuracy(name: str, taught: dict[str, Tensor], updates: int = 80) -> float:
    torch.set_num_threads(1)
    seen = run(ROWS[name], Sort(), taught, seed=0, updates=updates, every=updates)
    return sum(one.accuracy[updates] for one in seen) / len(seen)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stale_rollouts_teach_with_importance_weights_and_ruin_without(taught: dict[str, Tensor]) -> None:
    assert accuracy("stale-16", taught) >= 0.65
    assert accuracy("stale-16-own", taught) < 0.4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_climbs_and_four_updates_of_staleness_cost_nothing(taught: dict[str, Tensor]) -> None:
    fresh = accuracy("stale-0", taught, 60)
    assert fresh >= 0.70
    assert accuracy("stale-4", taught, 60) >= fresh - 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_learners_averaged_in_four_bits_are_as_good_as_one_that_has_it_all(taught: dict[str, Tensor]) -> None:
    assert accuracy("average-int4", taught) >= 0.83
