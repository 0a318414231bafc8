"""Rows of processes: what is heard of a run, who is killed and started again, and what a record makes of it; no process is started."""

import io
import json
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

import benchmarks.rl.wired
from benchmarks.lab.namespaces import LabError
from benchmarks.rl.__main__ import Options, due, shown
from benchmarks.rl.processes import WIRED, Heard, Killing, heard
from benchmarks.rl.wired import checks, killed_record, link_record, rounds_of
from benchmarks.suite.record import ABSENT, FAILED, OK, Record
from benchmarks.suite.runs import RunError
from examples.rl.capacity import Capacity


def said(event: str, at_s: float = 1.0, **numbers: Any) -> dict[str, Any]:
    return {"role": "trainer", "event": event, "at_s": at_s, **numbers}


class FakeRun:
    """A run that says what a test puts in; a process that is killed ends at once, one that is started again says its part."""

    def __init__(self, *told: tuple[str, dict[str, Any] | None], again: tuple[tuple[str, dict[str, Any]], ...] = ()) -> None:
        self.trainers, self.trainer_keys, self.address = ["trainer0", "trainer1"], ["a", "b"], "/ip4/somewhere"
        self.told: Queue[tuple[str, dict[str, Any] | None]] = Queue()
        for each in told:
            self.told.put(each)
        self.again, self.started, self.killed = again, list[Any](), list[str]()
        self.children = {name: self._child(name) for name in self.trainers}

    def _child(self, name: str) -> Any:
        def kill() -> None:
            self.killed.append(name)
            self.told.put((name, None))

        return SimpleNamespace(process=SimpleNamespace(kill=kill), last_words="boom")

    def start(self, *words: Any) -> None:
        self.started.append(words)
        for each in self.again:
            self.told.put(each)


def listen(run: FakeRun, **options: Any) -> Heard:
    return heard(run, **options)  # type: ignore[arg-type]


def template(name: str, updates: int = 320) -> Record:
    return next(due(Options(rows=(name,), seeds=(0,), updates=updates))).template


def test_the_second_trainer_is_killed_once_and_started_again_with_its_keys() -> None:
    ends = said("end", accuracy=0.9, sha256="s")
    updates = [("trainer1", said("update", update=n)) for n in (29, 30, 31)]
    back = [("trainer1", said("resumed", update=20)), ("trainer1", said("joined", update=40)), ("trainer0", ends), ("trainer1", ends)]
    run = FakeRun(*updates, again=tuple(back))
    told = listen(run, killing=Killing(away_s=0.0))
    assert run.killed == ["trainer1"]
    assert run.started == [("trainer1", "trainer", ["a", "b"], "/ip4/somewhere")]
    assert told.killing is not None
    assert told.killing.killed_at == 30
    assert told.last("trainer1", "joined")["update"] == 40


def test_a_trainer_that_comes_in_after_its_time_is_not_killed_but_said() -> None:
    with pytest.raises(RunError, match="came in at update 36, later than 35"):
        listen(FakeRun(("trainer1", said("update", update=36))), killing=Killing())


def test_a_run_that_is_over_before_the_killed_one_is_back_is_said_instead_of_waited_for() -> None:
    with pytest.raises(RunError, match=r"trainer0 was at its end before trainer1 was back.*more --updates"):
        listen(FakeRun(("trainer1", said("update", update=30)), ("trainer0", said("end")), again=()), killing=Killing(away_s=0.0))


def test_a_process_that_ends_before_its_time_ends_the_row_with_its_last_words() -> None:
    with pytest.raises(RunError, match="trainer0 ended: boom"):
        listen(FakeRun(("worker0", None), ("trainer0", None)))
    with pytest.raises(RunError, match="trainer1: not at the end"):
        listen(FakeRun(("trainer0", said("end"))), patience_s=0.01)
    with pytest.raises(RunError, match="never said 'end'"):
        Heard().last("trainer0", "end")


def ledger(first: int, last: int, *, hash_of: int = 1, members: int = 2) -> list[dict[str, Any]]:
    line = {"members": list(range(members)), "error": None, "wire_sent": 100}
    return [{"round": n, "state_hash": n * hash_of + 7, **line} for n in range(first, last)]


def killed(**changes: Any) -> Record:
    told = Heard(killing=Killing(killed_at=31, back=True))
    told.events["trainer0"] = [said("accuracy", update=0, accuracy=0.1), said("end", accuracy=0.95, sha256="a")]
    told.events["trainer1"] = [said("resumed", update=20), said("joined", update=41), said("end", accuracy=0.85, sha256="a")]
    rounds = changes.get("rounds", (ledger(0, 8), [*ledger(0, 3), *ledger(4, 8)]))
    return killed_record(template("killed-int4"), told, rounds)


def test_a_record_of_a_killed_learner_has_the_worse_accuracy_and_what_replicas_held() -> None:
    made = killed()
    assert made.status == OK
    assert made.numbers["final"] == 0.85
    assert (made.numbers["checkpoint"], made.numbers["joined_at"], made.numbers["killed_at"]) == (20, 41, 31)
    assert (made.numbers["common_rounds"], made.numbers["common_rounds_after"]) == (7, 4)
    assert made.bytes is not None
    assert made.bytes.ledger_sent == 750
    other = killed(rounds=(ledger(0, 8), [*ledger(0, 3), *ledger(4, 8, hash_of=2)]))
    assert (other.status, other.reason) == (FAILED, "not so: replicas hold the same bits")
    alone = killed(rounds=(ledger(0, 8), [*ledger(0, 3), *ledger(4, 8, members=1)]))
    assert (alone.status, alone.reason) == (FAILED, "not so: it averaged again")


def test_a_ledger_that_a_kill_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    lines = [json.dumps(each) for each in [*ledger(0, 2), {"error": "the exchange failed"}]]
    (tmp_path / "rounds.jsonl").write_text("\n".join([*lines, '{"round": 2, "mem']))
    assert [each["round"] for each in rounds_of(tmp_path / "rounds.jsonl")] == [0, 1]
    assert rounds_of(tmp_path / "none.jsonl") == []


def linked(name: str, *, idle: float, age: int = 0, final: float = 0.9) -> Record:
    told = Heard()
    updates = [said("update", n, update=n, waited_s=idle, staleness={str(age): 16}, refused={"stale": n}) for n in range(1, 4)]
    end = said("end", accuracy=final, sent=10, capacity={"idle": idle, **Capacity(0.5, 0.5, 1.0).told()})
    told.events["trainer0"] = [*updates, said("accuracy", update=3, accuracy=final), end]
    return link_record(template(name), told)


def test_a_record_of_slow_links_has_the_idle_share_as_it_was_and_as_it_was_predicted() -> None:
    made = linked("link-s1", idle=0.52, age=1)
    assert made.numbers["idle"] == 0.52
    assert made.numbers["predicted_1"] == 0.5
    assert (made.numbers["staleness_max"], made.numbers["stale_dropped"]) == (1, 3)
    assert made.numbers["wall_s"] == 2
    told = Heard()
    told.events["trainer0"] = [said("end", accuracy=0.9, sent=1, capacity={})]
    with pytest.raises(RunError, match="has not measured its capacity"):
        link_record(template("link-s1"), told)


def test_verdicts_say_what_did_not_hold() -> None:
    pull, push = linked("link-pull", idle=0.75), linked("link-push_pull", idle=0.5, age=3, final=0.88)
    assert all(checks([pull, push, killed()]).values())
    assert len(checks([pull, push, killed()])) == 7
    wrong = [linked("link-pull", idle=0.4, age=1), linked("link-push_pull", idle=0.5, final=0.8)]
    assert [claim for claim, held in checks(wrong).items() if not held] == [
        "pull: staleness always 0",
        "over 200 ms and 20 Mbit/s: push_pull idles less than pull",
        "and both end within .05",
        "idle at pull as its own durations predict, within 20 %",
    ]
    assert checks([]) == {}


def test_tables_have_a_row_for_each_that_was_measured() -> None:
    out = io.StringIO()
    for each in shown([killed(), linked("link-pull", idle=0.75)]):
        Console(file=out, width=250).print(each)
    assert "push_pull" not in out.getvalue()
    for wanted in ("0.850", "0.750", "yes  pull: staleness always 0"):
        assert wanted in out.getvalue()


def test_without_a_lab_links_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(topology: Any) -> Any:
        raise LabError("no root")

    monkeypatch.setattr(benchmarks.rl.wired, "open_lab", none)
    made = benchmarks.rl.wired.measured(WIRED["link-pull"], template("link-pull"))
    assert (made.status, made.reason) == (ABSENT, "no root")


def test_rows_are_configurations_that_their_files_and_the_suite_allow(tmp_path: Path) -> None:
    for row in WIRED.values():
        launch = row.launch(tmp_path, seed=2, updates=50)
        assert (launch.config.seed, launch.config.train.updates, launch.verifiers) == (2, 50, 0)
        assert (launch.config.learners.count > 1) == row.killed
    assert WIRED["link-pull"].launch(tmp_path, seed=0, updates=50).config.train.mode == "pull"
    with pytest.raises(ValueError, match="at least 320"):
        Options(rows=("killed-int4",), updates=80)
    made = replace(template("killed-int4"), status=OK)
    assert (made.members, made.sync_every) == (2, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_learner_that_is_killed_comes_back_and_both_end_well() -> None:
    made = benchmarks.rl.wired.measured(WIRED["killed-int4"], template("killed-int4"))
    assert made.status == OK, made.reason
    assert (made.numbers["final"] or 0) >= 0.80
