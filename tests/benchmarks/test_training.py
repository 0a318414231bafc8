import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training import lab, record, table
from benchmarks.training.grid import GRID
from benchmarks.training.launch import WorkerError, launch
from benchmarks.training.picture import draw, frontier, points
from benchmarks.training.rows import ROWS
from benchmarks.training.setting import Run, Setting


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def can_make_namespaces() -> bool:
    try:
        with lab.lab(1) as here:
            return here.share == 1
    except (lab.LabError, OSError):
        return False


needs_namespaces = pytest.mark.skipif(not can_make_namespaces(), reason="needs root, iproute2 and network namespaces")


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def seen(loss: float, sent: int) -> dict[str, Any]:
    return {"loss": loss, "sent": sent, "cpu_s": 1.0, "replicas_equal": True, "payload_sent": sent // 2}


def test_a_run_survives_its_journey_to_a_worker() -> None:
    run = Run(Setting("diloco", {"codec": "none", "sync_every": 10}), seed=3)
    assert Run.parse(run.dump()) == run


def test_the_key_of_a_setting_does_not_depend_on_the_order_of_options() -> None:
    assert Setting("demo", {"lr": 1, "codec": "x"}).key == Setting("demo", {"codec": "x", "lr": 1}, label="y").key


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of alone, ddp"):
        Setting("dillico")


def test_settings_of_the_sweep_are_all_different() -> None:
    assert len({setting.key for setting in GRID}) == len(GRID)


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    run = Run(Setting("ddp"), seed=0)
    record.append(path, run, seen(2.0, 10))
    with path.open("a") as file:
        file.write('{"key": "dd')
    assert [record.same_run(found, run) for found in record.read(path)] == [True]


def test_a_record_is_of_the_same_run_only_with_the_same_sizes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    record.append(path, Run(Setting("ddp", label="old name"), seed=0), seen(2.0, 10))
    [found] = record.read(path)
    assert record.same_run(found, Run(Setting("ddp", label="new name"), seed=0))
    assert not record.same_run(found, Run(Setting("ddp"), seed=0, steps=100))
    assert not record.same_run(found, Run(Setting("ddp"), seed=1))


def test_the_table_shows_the_median_and_whether_the_target_is_met(tmp_path: Path) -> None:
    options = table.Options(rows=("ddp", "diloco"), results=tmp_path / "results.jsonl")
    for seed, loss in enumerate((2.01, 2.03, 2.9)):
        record.append(options.results, options.run(ROWS["ddp"], seed), seen(1.98, 1600_000_000))
        record.append(options.results, options.run(ROWS["diloco"], seed), seen(loss, 1_400_000))
    made = table.table(options, record.read(options.results))
    columns = {str(column.header): list(column.cells) for column in made.columns}
    assert columns["val loss"] == ["1.980", "2.030"]
    assert columns["range"][1] == "2.010 .. 2.900"
    assert columns["x DDP"][1] == "1143"
    assert columns["target"][1] == "<= 2.05, <= 1.5 MB: met"


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown rows nonsense"):
        table.Options(rows=("nonsense",))


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    family = [(1.0, 2.0, 2.0, 2.0, "a"), (2.0, 2.5, 2.5, 2.5, "b"), (3.0, 1.0, 1.0, 1.0, "c")]
    assert frontier({"x": family}) == [(1.0, 2.0), (3.0, 1.0)]


def test_the_sweep_is_drawn_by_family(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    for setting in GRID[:12]:
        record.append(path, Run(setting, seed=0), seen(2.0, 10**6))
    families = points(record.read(path))
    assert {"DDP", "DiLoCo dense", "DiLoCo blockmax"} <= set(families)
    draw(tmp_path / "sweep.png", record.read(path))
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("as_user")
def test_a_user_without_root_counts_the_loopback() -> None:
    with lab.lab(4) as here:
        assert (here.interface, here.share, here.prefixes[0]) == ("lo", 4, ())
        assert here.counted_by == "tx of lo of this machine / 4 workers"


def test_a_machine_without_ip_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lab.shutil, "which", lambda name: None)
    with pytest.raises(lab.LabError, match="apt-get install iproute2"), lab.lab(2):
        pass


def run_in(prefix: tuple[str, ...], program: str) -> str:
    root = Path(__file__).parents[2]
    return subprocess.run([*prefix, sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout


@needs_namespaces
def test_a_namespace_counts_what_its_worker_sends() -> None:
    counter = "from examples.multiregion.counters import sent_nbytes; print(sent_nbytes('eth0'))"
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 1000, ('10.77.0.1', 9))"
    with lab.lab(2) as here:
        before = int(run_in(here.prefixes[1], counter))
        run_in(here.prefixes[1], send)
        after = int(run_in(here.prefixes[1], counter))
    assert 1028 <= after - before < 3000


@needs_namespaces
def test_namespaces_are_gone_after_an_error() -> None:
    def fail() -> None:
        with lab.lab(2):
            assert f"{lab.PREFIX}-{os.getpid()}-" in namespaces()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert f"{lab.PREFIX}-{os.getpid()}-" not in namespaces()


@needs_namespaces
def test_leftovers_of_a_killed_run_are_removed_by_the_next() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    name = f"{lab.PREFIX}-{gone.pid}-0"
    subprocess.run(["ip", "netns", "add", name], check=True)
    with lab.lab(1):
        assert name not in namespaces()


@pytest.mark.slow
@pytest.mark.usefixtures("as_user")
def test_a_failing_worker_ends_the_run_with_its_last_words() -> None:
    run = Run(Setting("diloco", {"codec": "nonsense"}), seed=0, workers=2, steps=1, warm_steps=0)
    with lab.lab(2) as here, pytest.raises(WorkerError, match="no codec is called 'nonsense'"):
        launch(run, here)


@pytest.mark.slow
@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("method", ["ddp", "textbook", "diloco"])
def test_every_method_leaves_identical_replicas_and_counted_bytes(method: str) -> None:
    options = {"sync_every": 2} if method != "ddp" else {}
    if method == "textbook":
        options |= {"outer_lr": 1.0, "outer_momentum": 0.0}
    run = Run(Setting(method, options), seed=0, workers=2, steps=2, warm_steps=0, batch=1)
    with lab.lab(2) as here:
        found = launch(run, here)
    assert found["replicas_equal"]
    assert found["sent"] > 1000
