"""`thinwire demo`: what it says, shows and draws of a run, how a run goes, and that nothing of one stays behind."""

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.swarm import Swarm
from benchmarks.chaos.watch import Watch
from benchmarks.demo import __main__ as demo
from benchmarks.demo.__main__ import Options
from benchmarks.demo.picture import picture
from benchmarks.demo.run import Demo, DemoError, Plan
from benchmarks.demo.story import Story
from benchmarks.demo.view import View, line, table
from benchmarks.lab.namespaces import LabError
from benchmarks.suite.record import ROOT
from tests.benchmarks.demo_toy import ToySpecs, toy
from thinwire import cli

LINK = "links of 20 Mbit/s and 40 ms"


def told(story: Story, number: int, at: float, round: int, *, heard: int = 4, state: str | None = None, steps: int | None = None) -> None:
    steps = 10 * (round + 1) if steps is None else steps
    loss = 5.0 - 0.1 * round
    story.round(number, at, round, "epoch", state or f"after {round - 1}", steps, loss, 1_000 * (round + 1), heard)


def begun() -> Story:
    """All four have applied rounds 0 to 9, at 101 to 110 s."""
    story = Story(4, LINK, 10)
    for i in range(4):
        story.joined(i, 99.0, 400_000)
    story.start(100.0)
    for round in range(10):
        for i in range(4):
            told(story, i, 101.0 + round, round)
    return story


def killed() -> Story:
    """Peer 2 was killed at 110.5 s; the others have gone on."""
    story = begun()
    story.killed(1, 110.5)
    for round in range(10, 14):
        for i in (0, 2, 3):
            told(story, i, 110.6 + round - 10, round, heard=4 if round == 10 else 3)
    return story


def ended(*, state: str = "after 14", shas: str = "aaaa", back: bool = True) -> Story:
    story = killed()
    story.born(1, 114.0)
    for i in (0, 2, 3):
        told(story, i, 115.0, 14, heard=3)
    if back:
        story.joined(1, 115.5, 400_000)
        told(story, 1, 116.0, 15, state=state, steps=20)
    for i in (0, 2, 3):
        told(story, i, 116.0, 15)
    for i, sha in enumerate(shas):
        story.ended(i, 15, sha * 64, 3.25)
    return story


def test_the_sentence_says_what_happened() -> None:
    story = ended()
    assert story.went_well
    # Dense: 16 rounds of 10 steps, each 3/2 of 400,000 float32; sent: 16,000 bytes each, the killed one 10,000 more in its second life.
    assert story.sentence() == (
        f"4 peers over {LINK} trained 400,000 weights together for 16 rounds and sent 0.0 MB each instead of 384 MB; peer 2 was killed "
        "with -9 at 10 s, the others went on after 1.1 s, it came back at 16 s with their state bit for bit; their loss fell from 5.00 to "
        f"3.50; all 4 hold the same weights (sha256 {'a' * 16})."
    )
    assert [one.sent for one in story.peers] == [16_000, 26_000, 16_000, 16_000]


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (ended(state="else"), "it came back at 16 s WITH ANOTHER STATE THAN THEIRS"),
        (ended(shas="aaba"), "THE WEIGHTS DIFFER (sha256 aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb, aaaaaaaaaaaaaaaa)"),
        (ended(shas="aaa"), "THE WEIGHTS DIFFER (sha256 aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaa, none)"),
        (ended(back=False), "IT DID NOT COME BACK"),
        (begun(), "nobody was killed"),
    ],
)
def test_what_went_wrong_is_said_and_is_no_success(story: Story, said: str) -> None:
    assert said in story.sentence()
    assert not story.went_well


def test_a_round_that_the_dead_had_a_part_in_is_not_the_next_one() -> None:
    story = killed()
    assert story.kill is not None
    assert story.kill.next_round == 111.6  # the round of 110.6 s still counted its work


def test_counts_of_the_network_take_the_place_of_the_own_ones() -> None:
    story = ended()
    story.counted([5, 6, 7, 8])
    assert [one.sent for one in story.peers] == [5, 6, 7, 8]
    story = ended()
    story.counted([])
    assert story.peers[1].sent == 26_000


def test_the_same_is_told_as_json() -> None:
    told = json.loads(json.dumps(ended().as_json()))
    assert told["kill"] == {
        "peer": 2,
        "at_s": 10.5,
        "next_round_after_s": pytest.approx(1.1),
        "started_again_at_s": 14.0,
        "back_at_s": 15.5,
        "rejoin_s": 1.5,
        "same_state": True,
    }
    assert told["identical"]
    assert told["dense_nbytes"] == 384_000_000
    assert len(told["loss"]) == 4
    assert told["loss"][0][0] == [1.0, 5.0]
    json.dumps(Story(4, LINK, 10).as_json(), allow_nan=False)  # also of nothing at all


# -- shown -----------------------------------------------------------------------------------------------------------------------------


def rows(story: Story, now: float) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=120).print(table(story, now))
    return [[cell.strip() for cell in text.split("│")[1:-1]] for text in out.getvalue().splitlines() if text.startswith("│")]


def test_the_killed_one_is_shown_dead_then_healing_then_training() -> None:
    story = killed()
    assert rows(story, 114.0)[1] == ["2", "dead", "9", "4.100", "0.01", "4"]
    assert rows(story, 114.0)[0] == ["1", "training", "13", "3.700", "0.01", "0"]
    story.born(1, 114.0)
    assert rows(story, 114.0)[1][1] == "healing"
    story.joined(1, 115.0, 400_000)
    assert rows(story, 114.0)[1][1] == "training"
    assert rows(ended(), 120.0)[1] == ["2", "done", "15", "3.500", "0.03", "0"]
    assert rows(Story(4, LINK, 10), 0.0)[3] == ["4", "starting", "-", "-", "0.00", "-"]


def test_plain_lines_come_every_few_seconds_and_not_twice_the_same() -> None:
    story, out, now = begun(), io.StringIO(), [111.0]
    with View(Console(file=out), story, True, lambda: now[0]) as view:
        for at in (111.0, 112.0, 116.5):
            now[0] = at
            view.show()
        view.say("kill -9 4711: peer 2 [bold]")
    lines = out.getvalue().splitlines()
    assert lines == [line(story, 111.0), line(story, 116.5), "kill -9 4711: peer 2 [bold]"]
    assert lines[0] == "11 s, round 9, 0.01 MB sent each, dense 240 MB: 1 training 4.10, 2 training 4.10, 3 training 4.10, 4 training 4.10"
    out = io.StringIO()
    with View(Console(file=out), Story(4, LINK, 10), True, lambda: now[0]) as view:
        for at in (0.0, 10.0, 20.0):
            now[0] = at
            view.show()
    assert len(out.getvalue().splitlines()) == 1


def test_the_live_table_has_what_was_said_under_it() -> None:
    out = io.StringIO()
    with View(Console(file=out, force_terminal=True, width=120), killed(), False, lambda: 114.0) as view:
        view.say("kill -9 4711: peer 2 [bold]")
    assert "kill -9 4711: peer 2 [bold]" in out.getvalue()
    assert "dead" in out.getvalue()


@pytest.mark.parametrize("story", [ended(), killed(), begun(), Story(4, LINK, 10)])
def test_a_picture_can_be_drawn_of_whatever_happened(story: Story, tmp_path: Path) -> None:
    picture(tmp_path / "new" / "demo.svg", story)
    drawn = (tmp_path / "new" / "demo.svg").read_text()
    assert ("2 killed" in drawn) == (story.kill is not None)
    assert ("2 back" in drawn) == (story.kill is not None and story.kill.back is not None)
    assert "dense" in drawn


def test_the_picture_is_a_png_by_default(tmp_path: Path) -> None:
    picture(tmp_path / "demo.png", ended())
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert Options().out == Path("demo.png")


# -- how it runs -----------------------------------------------------------------------------------------------------------------------


def test_who_is_killed_and_when_follows_from_the_seed() -> None:
    plans = [Plan.drawn(40.0, 4, seed) for seed in range(50)]
    assert plans == [Plan.drawn(40.0, 4, seed) for seed in range(50)]
    assert {plan.victim for plan in plans} == {0, 1, 2, 3}
    assert all(12.0 <= plan.kill_s <= 18.0 for plan in plans)


def toys(fleet: Fleet, specs: ToySpecs, said: list[str]) -> Demo:
    swarm = Swarm(fleet, Watch(time.monotonic()), 4, toy, specs)
    return Demo(swarm, Story(4, LINK, 10), Plan(1.0, 2, 0.2), say=said.append, look_s=0.02, dead_s=0.1)


def test_one_is_killed_and_comes_back_and_all_end_after_the_same_round() -> None:
    said: list[str] = []
    with Fleet() as fleet:
        made = toys(fleet, ToySpecs(), said)
        made.run()
        assert fleet.members == {}
    story = made.story
    assert story.went_well, story.sentence()
    assert story.kill is not None
    assert story.kill.peer == 2
    assert story.kill.born is not None
    assert story.kill.back is not None
    assert story.kill.at < story.kill.born < story.kill.back
    assert sum("kill -9" in text for text in said) == 1


def test_weights_that_differ_are_no_success() -> None:
    with Fleet() as fleet:
        made = toys(fleet, ToySpecs(wrong="m1"), [])
        made.run()
    assert not made.story.went_well
    assert "THE WEIGHTS DIFFER" in made.story.sentence()


def test_a_peer_that_fails_ends_the_demo_with_what_it_said() -> None:
    with Fleet() as fleet, pytest.raises(DemoError, match="peer 4 failed:\nTraceback: the script has a bug"):
        toys(fleet, ToySpecs(fails="m3"), []).run()


# -- the command -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "3"], "--seconds is 3; give 10 to 3600"),
        (["--seconds", "nan"], "--seconds is nan; give 10 to 3600"),
        (["-o", "demo.txt"], "--out is demo.txt; give a name that ends in .png, .svg, .pdf"),
    ],
)
def test_options_that_cannot_work_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(words)
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "hivemind" else object())
    with pytest.raises(SystemExit) as caught:
        demo.main([])
    assert caught.value.code == "error: no module 'hivemind'; pip install 'thinwire[swarm,bench]'"


def test_a_place_where_no_picture_can_be_is_known_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: cannot write .*demo.png: .*; give another -o"):
        demo.main(["-o", str(tmp_path / "file" / "demo.png")])
    demo.refuse_unwritable(tmp_path / "new" / "demo.png")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_command_is_found() -> None:
    assert cli.command(["demo", "--seed", "3"]) == ("thinwire demo", "benchmarks.demo.__main__", ["--seed", "3"])
    assert "thinwire demo " in cli.HELP


def test_without_root_it_says_so_in_a_line_and_takes_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise LabError("regions are network namespaces, which need root; run as root")

    monkeypatch.setattr(demo, "open_lab", refused)
    out = io.StringIO()
    with demo.links(Console(file=out, width=300)) as (lab, link):
        assert (lab, link) == (None, "this machine's loopback")
    assert out.getvalue().splitlines() == [
        "links: not shaped, the peers talk over this machine's loopback: regions are network namespaces, which need root; run as root"
    ]


def started(folder: Path, mark: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "thinwire.cli", "demo", "--seconds", "10", "-o", str(folder / "demo.png"), *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"DEMO_TEST": mark}, stdout=subprocess.PIPE, text=True)


def left(mark: str, pid: int) -> list[str]:
    """Processes and namespaces of a run that are there after a while."""
    until = time.monotonic() + 30.0
    while found := _processes(mark) + _namespaces(f"tw{pid}-"):
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return found


def _processes(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"DEMO_TEST={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def _namespaces(tag: str) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"{tag}*")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_swarm_loses_a_peer_and_gets_it_back(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    process = started(tmp_path, mark, "--json")
    told = json.loads(process.communicate()[0])  # and nothing else
    assert process.returncode == 0
    assert told["identical"]
    assert told["kill"]["same_state"]
    assert told["loss"][0][-1][1] < told["loss"][0][0][1]
    assert max(told["sent_nbytes"]) < told["dense_nbytes"] / 5
    assert (tmp_path / "demo.png").exists()
    assert left(mark, process.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing(number: int, tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    process = started(tmp_path, mark, "--plain")
    assert process.stdout is not None
    assert any("is a member" in text for text in process.stdout)
    process.send_signal(number)
    process.stdout.close()
    process.wait()
    assert left(mark, process.pid) == []
