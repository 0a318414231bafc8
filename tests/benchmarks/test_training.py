import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Void, open_loopback
from benchmarks.suite import record as results
from benchmarks.suite.record import Record, append, read
from benchmarks.suite.runs import RunError
from benchmarks.training import __main__ as training
from benchmarks.training import launch as launching
from benchmarks.training import sweep_results
from benchmarks.training.curve import Mark, merge, wall_to_loss
from benchmarks.training.front import front, spots
from benchmarks.training.grid import GRID
from benchmarks.training.launch import launch, record_of, template
from benchmarks.training.meter import Meter, Moved
from benchmarks.training.methods import absent
from benchmarks.training.options import Options
from benchmarks.training.picture import draw, frontier, points
from benchmarks.training.rows import QUICK, ROWS
from benchmarks.training.setting import METHODS, Run, Setting
from benchmarks.training.table import table
from benchmarks.training.worker import Seen

LOOPBACK = "loopback"


@pytest.fixture
def here() -> Iterator[Lab]:
    with open_loopback(2) as lab:
        yield lab


def seen(loss: float, sent: int, *, marks: list[Mark] | None = None, ledger: dict[str, float] | None = None, sha256: str = "a") -> Seen:
    return Seen(loss, Moved(sent, sent + 1), 1.0, 2.0, 10, sha256, marks or [], ledger or {})


def found(run: Run, lab: Lab, loss: float, sent: int, **more: Any) -> Record:
    """The record of a run whose workers all saw this much; the loopback counts all of them together."""
    unjudged = [Mark(mark.step, mark.wall_s, mark.sent) for mark in more.get("marks", [])]
    both = [seen(loss, sent * lab.share, **more), seen(loss, sent * lab.share, **(more | {"marks": unjudged}))]
    return record_of(template(run, lab), both, lab)


# -- runs, settings, options


def test_a_run_survives_its_journey_to_a_worker() -> None:
    run = Run(Setting("diloco", {"codec": "none", "sync_every": 10}), seed=3)
    assert Run.parse(run.dump()) == run


def test_the_key_of_a_setting_does_not_depend_on_the_order_of_options() -> None:
    assert Setting("demo", {"lr": 1, "codec": "x"}).key == Setting("demo", {"codec": "x", "lr": 1}, label="y").key


def test_runs_that_differ_in_anything_but_their_label_have_keys_of_their_own() -> None:
    run = Run(Setting("ddp"), seed=0)
    assert run.key("fast") == replace(run, curve=5).key("fast")  # which changes nothing of what is run
    others = [replace(run, seed=1), replace(run, steps=100), replace(run, workers=2), replace(run, warm_seed=1), replace(run, batch=1)]
    assert len({run.key("fast"), run.key("thin"), *(other.key("fast") for other in others)}) == 7
    assert run.key("fast") == replace(run, setting=Setting("ddp", label="new name")).key("fast")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of alone, ddp"):
        Setting("dillico")


def test_every_method_has_a_row() -> None:
    assert {row.setting.method for row in ROWS.values()} == set(METHODS)
    assert len({row.setting.key for row in ROWS.values()}) == len({row.setting.label for row in ROWS.values()}) == len(ROWS)


def test_settings_of_the_sweep_are_all_different() -> None:
    assert len({setting.key for setting in GRID}) == len(GRID)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ("nonsense",)}, "unknown rows nonsense"),
        ({"steps_of": {"nonsense": 1}}, "unknown rows nonsense"),
        ({"steps_of": {"ddp": 0}}, "steps is 0; give at least 1"),
        ({"workers": 1}, "workers is 1; give at least 2"),
        ({"rows": ()}, "--rows is empty"),
        ({"seeds": ()}, "--seeds is empty"),
        ({"warm_steps": -3}, "warm_steps is -3; give at least 0"),
        ({"curve": 0}, "curve is 0; give at least 1"),
        ({"timeout_s": 0.0}, "give seconds above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_row_can_have_steps_of_its_own() -> None:
    options = Options(rows=("ddp", "none"), seeds=(0,), steps_of={"ddp": 7})
    assert [run.steps for run in options.runs()] == [7, 200]


def test_quick_is_a_few_rows_of_one_seed() -> None:
    assert {run.setting.key for run in Options(quick=True).effective().runs()} == {ROWS[name].setting.key for name in QUICK}


# -- counters and curves


def test_a_pause_takes_no_time() -> None:
    meter = Meter("lo", 0)
    with meter.paused():
        sum(i * i for i in range(200_000))
        inside = meter.wall_s()
    assert meter.wall_s() < inside / 2


def test_a_curve_has_each_mark_once_with_the_slowest_seconds_and_the_mean_bytes() -> None:
    workers = [[Mark(0, 0.0, 0, 3.0), Mark(10, 1.0, 400)], [Mark(0, 0.1, 0), Mark(10, 1.5, 200, 2.0)]]
    assert [msgspec.structs.astuple(point) for point in merge(workers, share=2)] == [(0, 3.0, 0.1, 0.0), (10, 2.0, 1.5, 150.0)]


def test_wall_to_loss_is_the_first_crossing_of_the_curve(here: Lab) -> None:
    marks = [Mark(0, 0.0, 0, 3.0), Mark(10, 1.0, 0, 2.0), Mark(20, 1.5, 0, 2.4)]
    record = found(Run(Setting("ddp"), seed=0), here, 1.9, 10, marks=marks)
    assert record.curve[-1].loss == 1.9
    assert wall_to_loss(record, 2.25) == pytest.approx(0.75)
    assert wall_to_loss(record, 3.5) == 0.0
    assert wall_to_loss(record, 1.9) == pytest.approx(2.0)
    assert wall_to_loss(record, 1.8) is None


# -- records and the table


def test_a_record_has_the_bytes_of_one_worker_and_the_ledger_of_its_method(here: Lab) -> None:
    ledger = {"payload_sent": 5, "wire_sent": 6, "rounds": 2, "nothing_averaged": 1, "compute_s": 0.5}
    record = found(Run(Setting("diloco", {"sync_every": 5}), seed=0), here, 2.0, 10, ledger=ledger)
    assert record.bytes is not None
    assert (record.bytes.payload_sent, record.bytes.ledger_sent, record.bytes.interface_sent) == (5, 6, 10)
    assert record.bytes.wire_sent is None
    assert record.checks == {"replicas_equal": True, "all_rounds_averaged": False}
    assert record.numbers == {"loss": 2.0, "cpu_s": 1.0, "wall_s": 2.0, "rounds": 2, "nothing_averaged": 1, "compute_s": 0.5}
    assert (record.sync_every, record.members, record.numel) == (5, 2, 10) or record.members == 4
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


def test_replicas_that_differ_are_told(here: Lab) -> None:
    both = [seen(2.0, 10, sha256="a"), seen(2.0, 10, sha256="b")]
    assert record_of(template(Run(Setting("ddp"), seed=0), here), both, here).checks == {"replicas_equal": False}


def columns(options: Options, records: list[Record]) -> dict[str, list[str]]:
    return {str(column.header): [str(cell) for cell in column.cells] for column in table(options, records, LOOPBACK).columns}


def test_the_table_shows_the_median_and_whether_the_target_is_met(tmp_path: Path, here: Lab) -> None:
    options = Options(rows=("ddp", "diloco"), results=tmp_path / "results.jsonl", until_loss=2.5)
    for seed, loss in enumerate((2.01, 2.03, 2.9)):
        marks = [Mark(0, 0.0, 0, 3.0)]
        append(options.results, found(options.run("ddp", seed), here, 1.98, 1600_000_000, marks=marks))
        append(options.results, found(options.run("diloco", seed), here, loss, 1_400_000, marks=marks, ledger={"payload_sent": 7e5}))
    shown = columns(options, read(options.results))
    assert shown["val loss"] == ["1.980", "2.030"]
    assert shown["range"][1] == "2.010 .. 2.900"
    assert shown["x DDP"] == ["1", "1143"]
    assert shown["payload MB"] == ["", "0.70"]
    assert shown["wall s to 2.5"] == ["1.0", "1.0"]
    assert shown["target"][1] == "<= 2.05, <= 1.5 MB: met"


def test_a_row_that_could_not_run_is_shown_with_its_reason(here: Lab) -> None:
    options = Options(rows=("torchft", "ddp"), seeds=(0,))
    absent_one = msgspec.structs.replace(template(options.run("torchft", 0), here), status="absent", reason="no module torchft")
    failed = msgspec.structs.replace(template(options.run("ddp", 0), here), status="failed", reason="worker 1 failed: [Errno 28]\nlong")
    assert columns(options, [absent_one, failed])["target"] == ["absent: no module torchft", "failed: worker 1 failed: [Errno 28]"]


def test_the_front_holds_what_nothing_beats_in_both(here: Lab) -> None:
    made = [
        found(Run(Setting("diloco", {"codec": codec}, label=codec), seed), here, loss + seed / 100, sent)
        for codec, sent, loss in (("a", 100, 3.0), ("b", 200, 3.5), ("c", 300, 2.0))
        for seed in (0, 1, 2)
    ]
    failed = msgspec.structs.replace(made[0], status="failed")
    all_of_them = spots([*made, failed])
    assert [(spot.label, spot.loss, len(spot.records)) for spot in all_of_them] == [("a", 3.01, 3), ("b", 3.51, 3), ("c", 2.01, 3)]
    assert [spot.label for spot in front(all_of_them)] == ["a", "c"]


# -- the sweep


def seen_by_the_sweep(loss: float, sent: int) -> dict[str, Any]:
    return {"loss": loss, "sent": sent, "cpu_s": 1.0, "replicas_equal": True, "payload_sent": sent // 2}


def test_a_torn_last_line_of_the_sweep_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    run = Run(Setting("ddp"), seed=0)
    sweep_results.append(path, run, seen_by_the_sweep(2.0, 10))
    with path.open("a") as file:
        file.write('{"key": "dd')
    assert [sweep_results.same_run(kept, run) for kept in sweep_results.read(path)] == [True]


def test_a_line_of_the_sweep_is_of_the_same_run_only_with_the_same_sizes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    sweep_results.append(path, Run(Setting("ddp", label="old name"), seed=0), seen_by_the_sweep(2.0, 10))
    [kept] = sweep_results.read(path)
    assert sweep_results.same_run(kept, Run(Setting("ddp", label="new name"), seed=0))
    assert not sweep_results.same_run(kept, Run(Setting("ddp"), seed=0, steps=100))
    assert not sweep_results.same_run(kept, Run(Setting("ddp"), seed=1))


def test_the_committed_sweep_can_be_read() -> None:
    kept = sweep_results.read(results.RESULTS / "sweep.jsonl")
    assert all(any(sweep_results.same_run(line, Run(setting, seed=0)) for line in kept) for setting in GRID)


def test_the_frontier_of_the_sweep_holds_what_nothing_beats_in_both() -> None:
    family = [(1.0, 2.0, 2.0, 2.0, "a"), (2.0, 2.5, 2.5, 2.5, "b"), (3.0, 1.0, 1.0, 1.0, "c")]
    assert frontier({"x": family}) == [(1.0, 2.0), (3.0, 1.0)]


def test_the_sweep_is_drawn_by_family(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    for setting in GRID[:12]:
        sweep_results.append(path, Run(setting, seed=0), seen_by_the_sweep(2.0, 10**6))
    families = points(sweep_results.read(path))
    assert {"DDP", "DiLoCo dense", "DiLoCo blockmax"} <= set(families)
    draw(tmp_path / "sweep.png", sweep_results.read(path))
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


# -- what goes wrong


def test_a_method_without_its_module_is_absent_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training.methods.find_spec", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = tmp_path / "results.jsonl"
    training.main(["--rows", "torchft", "--seeds", "0", "--workers", "2", "--results", str(path)])
    [record] = read(path)
    assert (record.status, record.label) == ("absent", "torchft DiLoCo, plain averaging")
    assert "pip install" in (record.reason or "")


def test_the_authors_code_is_absent_without_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.kernels.demo.find_spec", lambda name: None)
    assert "github.com/bloc97/DeMo" in (absent("demo-reference") or "")
    assert absent("ddp") is None


def test_a_run_over_a_link_that_is_not_what_was_asked_is_void(here: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(lab: Lab) -> None:
        raise Void("12 % too slow")

    monkeypatch.setattr(Lab, "verify", off)
    record = training.measure(Run(Setting("ddp"), seed=0), here, 1.0)
    assert (record.status, record.reason) == ("void", "12 % too slow")


def test_errors_of_the_lab_end_the_command_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(options: Options) -> None:
        raise LabError("the command `ip` is missing; install it")

    monkeypatch.setattr(training, "lab_of", refuse)
    with pytest.raises(SystemExit, match=r"^error: the command `ip` is missing; install it$"):
        training.main(["--rows", "ddp"])


def test_without_regions_the_loopback_is_counted_unless_a_link_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Topology) -> None:
        raise LabError("no regions here")

    monkeypatch.setattr(training, "open_lab", refuse)
    with training.lab_of(Options(workers=2)) as lab:
        assert lab.kind == LOOPBACK
    with pytest.raises(LabError, match="no regions here"), training.lab_of(Options(workers=2, link="20:80")):
        pass


@contextmanager
def instead_of_workers(monkeypatch: pytest.MonkeyPatch, program: str) -> Iterator[None]:
    """Every worker runs this program; `rank` is its own."""
    real = Lab.start

    def start(self: Lab, i: int, words: Any, **options: Any) -> Any:
        return real(self, i, [sys.executable, "-S", "-c", f"rank = {i}\n{program}"], **options)

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "start", start)
        yield


WAIT = "import time\ntime.sleep(60)"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os\nif rank: os.kill(os.getpid(), 9)\n" + WAIT, "worker 1 was killed by SIGKILL; run it again with --keep"),
        ("if rank: import no_such_module\n" + WAIT, "worker 1 failed: ModuleNotFoundError: No module named 'no_such_module'; install that"),
        ("raise OSError('Connection closed by peer' if not rank else 'disk full')", "worker 1 failed: OSError: disk full; mend that"),
        ("print('step 3', flush=True)\n" + WAIT, "no result after 1 s (workers 0, 1 still run): a worker hangs, or the link is too thin"),
    ],
)
def test_a_run_that_fails_says_why_in_its_first_line(here: Lab, monkeypatch: pytest.MonkeyPatch, program: str, message: str) -> None:
    monkeypatch.setattr(launching, "LAST_WORDS_S", 0.3)
    run = Run(Setting("ddp"), seed=0, workers=2)
    with instead_of_workers(monkeypatch, program), pytest.raises(RunError) as caught:
        launch(run, here, timeout_s=1.0 if "step 3" in program else 30.0)
    assert str(caught.value).splitlines()[0].startswith(message)


# -- real runs


def tiny(method: str, options: dict[str, Any], **sizes: Any) -> Run:
    return Run(Setting(method, options), seed=0, **({"workers": 2, "steps": 4, "warm_steps": 0, "batch": 1} | sizes))


PLAIN = {"sync_every": 2, "outer_lr": 1.0, "outer_momentum": 0.0}
needs_torchft = pytest.mark.skipif(find_spec("torchft") is None, reason="needs torchft")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ddp", {}),
        ("powersgd", {"rank": 1}),
        ("post-local-sgd", {"period": 2}),
        ("textbook", PLAIN),
        pytest.param("torchft", PLAIN, marks=needs_torchft),
        ("demo-textbook", {"lr": 1e-3}),
        ("diloco", {"sync_every": 2}),
        ("demo", {}),
    ],
)
def test_every_method_leaves_identical_replicas_counted_bytes_and_a_curve(here: Lab, method: str, options: dict[str, Any]) -> None:
    record = launch(tiny(method, options), here, timeout_s=200)
    assert record.checks["replicas_equal"]
    assert record.bytes is not None
    assert record.bytes.interface_sent is not None
    assert record.bytes.interface_sent > 1000
    assert [point.step for point in record.curve] == [0, 4]
    assert record.curve[-1].loss < record.curve[0].loss


@pytest.mark.slow
def test_plain_averaging_is_the_same_in_torch_in_the_textbook_and_here(here: Lab) -> None:
    """PostLocalSGD with period H, DiLoCo with outer learning rate 1 and no momentum: one algorithm."""
    runs = [
        tiny("post-local-sgd", {"period": 2}),
        tiny("textbook", PLAIN),
        tiny("diloco", PLAIN | {"codec": "none", "nesterov": False}),
    ]
    losses = [launch(run, here, timeout_s=200).numbers["loss"] for run in runs]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.slow
def test_a_failing_worker_ends_the_run_with_its_last_words(here: Lab) -> None:
    with pytest.raises(RunError, match="ValueError: no codec is called 'nonsense'"):
        launch(tiny("diloco", {"codec": "nonsense"}), here, timeout_s=200)
