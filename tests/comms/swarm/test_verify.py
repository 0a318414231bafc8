"""The checker: a sound history is green, and each law turns red on the lines that break it."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.comms.swarm.made_history import EPOCH, KEYS, OTHER, Member, change, end, find, hashed, run
from thinwire.comms.swarm.history import History
from thinwire.comms.swarm.verdict import LAWS
from thinwire.comms.swarm.verify import check

Lines = list[dict[str, Any]]


def test_a_sound_history_is_green_and_every_law_was_checked(tmp_path: Path) -> None:
    end(run(tmp_path))
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert all(verdict.checked[law] > 0 for law in LAWS), verdict.checked
    assert (verdict.members, verdict.incarnations, verdict.decisions) == (4, 4, 6)
    assert verdict.forks == verdict.notes == []


def set_field(kind: str, at: int, /, **fields: Any) -> Callable[[Lines], None]:
    return lambda lines: find(lines, kind, at).update(fields)


def drop(kind: str, round: int) -> Callable[[Lines], None]:
    return lambda lines: lines.remove(find(lines, kind, round))


def renumber(lines: Lines) -> None:
    for seq, line in enumerate(lines):
        line["seq"] = seq


def without(*gone: tuple[str, int]) -> Callable[[Lines], None]:
    def edit(lines: Lines) -> None:
        for kind, round in gone:
            lines.remove(find(lines, kind, round))
        renumber(lines)

    return edit


def twice(lines: Lines) -> None:
    at = lines.index(find(lines, "apply", 4))
    lines.insert(at + 1, dict(lines[at], before=lines[at]["after"], sent=0, received=0))
    lines[at + 1]["after"] = lines[at]["after"]
    renumber(lines)


def other_state(lines: Lines) -> None:
    """All of this member's states from round 4 on are others, consistently."""
    find(lines, "apply", 4)["after"] = find(lines, "begin", 5)["before"] = find(lines, "apply", 5)["before"] = "ab" * 32


def stranger(lines: Lines) -> None:
    find(lines, "commit", 1)["counted"]["ee" * 32] = "ee" * 32
    find(lines, "apply", 1)["counted"]["ee" * 32] = "ee" * 32


def failed(lines: Lines) -> None:
    at = lines.index(find(lines, "begin", 4))
    lines.insert(at + 1, dict(lines[at], kind="fail", after="cd" * 32))
    renumber(lines)


@pytest.mark.parametrize(
    ("law", "edit", "said"),
    [
        ("same state", other_state, "round 4.0 of epoch .*: state is abababababababab here and .* there|and abababababababab there"),
        ("same decision", set_field("commit", 4, counted={KEYS[0].hex(): "0" * 64}), "counted is"),
        ("same decision", set_field("commit", 3, skipped={KEYS[0].hex(): "dead"}), "skipped is .*dead"),
        ("same decision", set_field("commit", 1, members=[KEYS[1].hex()]), "members is"),
        ("same decision", set_field("commit", 5, chain="00"), "chain is"),
        ("once", twice, "round 4 is applied again"),
        ("once", set_field("apply", 4, counted={}), "apply of {}"),
        ("once", set_field("skip", 2, counted={KEYS[0].hex(): "0" * 64}), "skip of"),
        ("once", set_field("apply", 4, digest=OTHER.hex()), "decided in epoch .* applied in"),
        ("gap-free", without(("commit", 4), ("apply", 4)), "round 5.0 is decided, the one before was 3.0"),
        ("gap-free", without(("apply", 4)), "round 5.0 is applied, the one before was 3.0"),
        ("gap-free", set_field("join", 0, round=3), "round 0.0 is decided, due was 3.0"),
        ("untouched", set_field("begin", 4, before="ef" * 32), "another than its last change left"),
        ("untouched", set_field("apply", 4, before="ef" * 32), "another than its last change left"),
        ("untouched", set_field("skip", 2, after="ef" * 32), "round 2 was skipped and changed the state"),
        ("untouched", failed, "round 4 failed and changed the state"),
        ("bytes", set_field("apply", 4, sent=99), "reported 499 bytes sent in all, the transport counted 500"),
        ("bytes", set_field("apply", 4, received_counted=1001), "received in all, the transport counted 1001"),
        ("lineage", set_field("commit", 5, digest=OTHER.hex()), "is declared by nobody"),
        ("whole", drop("begin", 4), "event 14 comes where 13 is due"),
        ("whole", set_field("begin", 4, mono=0.0), "went back"),
        ("whole", set_field("begin", 4, lost=3), "3 are declared lost"),
    ],
)  # fmt: skip
def test_each_law_turns_red_on_the_line_that_breaks_it(law: str, edit: Callable[[Lines], None], said: str, tmp_path: Path) -> None:
    end(run(tmp_path))
    change(tmp_path, 1, edit)
    verdict = check(tmp_path)
    assert not verdict.green
    found = [violation for violation in verdict.violations if violation.law == law]
    text = "\n".join(map(str, found))
    assert re.search(said, text), "\n".join(map(str, verdict.violations))
    mine = f"{KEYS[1].hex()[:16]}-"
    assert any(place.file.startswith(mine) for violation in verdict.violations for place in violation.places)


def test_who_was_no_member_does_not_count(tmp_path: Path) -> None:
    end(run(tmp_path))
    for member in range(3):
        change(tmp_path, member, stranger)
    verdict = check(tmp_path)
    assert [violation.law for violation in verdict.violations] == ["lineage"]
    assert "counts [eeeeeeeeeeeeeeee], no members of it" in verdict.violations[0].said


def test_a_newcomer_that_adopted_another_state_is_found(tmp_path: Path) -> None:
    members = run(tmp_path)
    late = Member(tmp_path, 7)
    members[0].state = hashed("not what the group had")
    late.join(EPOCH, 6, members[0])
    verdict = check(tmp_path)
    assert [(v.law, "joined at round 6.0" in v.said) for v in verdict.violations] == [("same state", True)]


def bereaved(folder: Path, *, chain: bytes | None = None, declare: bool = True, number: int = 1) -> list[Member]:
    """After six rounds the last two members lose the others and go on for themselves; the others go on too."""
    members = run(folder)
    for member in members[2:]:
        if declare:
            member.history.append(
                "epoch",
                epoch=number,
                digest=OTHER,
                parent=EPOCH,
                round=6,
                members=[m.key for m in members[2:]],
                chain=chain or member.chain,
            )
        member.decide(OTHER, 6, members[2:], members[2:], epoch=1)
    for member in members[:2]:
        member.decide(EPOCH, 6, members[:2], members[:2])
    return members


def test_a_declared_fork_is_green_and_named(tmp_path: Path) -> None:
    members = bereaved(tmp_path)
    loser = members[2]
    loser.state, loser.chain = members[0].state, members[0].chain
    loser.history.append("rejoin", digest=EPOCH, round=7, after=loser.state)
    for member in (*members[:2], loser):
        member.decide(EPOCH, 7, members[:2], [*members[:2], loser])
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert verdict.forks == [f"{EPOCH.hex()[:8]} split and went on: {OTHER.hex()[:8]} from round 6"]


def test_a_fork_that_nobody_declared_is_red(tmp_path: Path) -> None:
    bereaved(tmp_path, declare=False)
    assert any("is declared by nobody" in violation.said for violation in check(tmp_path).violations)


def test_an_epoch_must_go_on_from_a_known_decision_and_count_up(tmp_path: Path) -> None:
    bereaved(tmp_path / "a", chain=hashed("another past"))
    bereaved(tmp_path / "b", number=0)
    assert "goes on from chain" in check(tmp_path / "a").violations[0].said
    assert "has number 0, its parent 0" in check(tmp_path / "b").violations[0].said


def test_a_group_that_was_founded_twice_is_told(tmp_path: Path) -> None:
    run(tmp_path)
    other = Member(tmp_path, 6)
    other.found(OTHER, [other])
    assert "founded 2 times" in check(tmp_path).forks[0]


def test_epochs_in_a_circle_end(tmp_path: Path) -> None:
    member = Member(tmp_path, 0)
    member.join(EPOCH, 3, member)
    member.history.append("epoch", epoch=1, digest=EPOCH, parent=OTHER, round=3)
    member.history.append("epoch", epoch=2, digest=OTHER, parent=EPOCH, round=3)
    assert not check(tmp_path).green


def test_a_killed_member_and_its_next_incarnation_are_two_lives(tmp_path: Path) -> None:
    members = run(tmp_path)
    path = members[1].history.path
    path.write_bytes(path.read_bytes()[:-30])
    again = Member(tmp_path, 1, life=1)
    again.join(EPOCH, 6, members[0])
    for member in (*members[2:], members[0], again):
        member.decide(EPOCH, 6, [members[0], *members[2:]], members)
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert (verdict.members, verdict.incarnations) == (4, 5)


def test_lines_that_a_full_disk_lost_are_a_hole_and_no_violation(tmp_path: Path) -> None:
    end(run(tmp_path))

    def lose(lines: Lines) -> None:
        at = lines.index(find(lines, "commit", 3))
        lines[at + 3]["lost"] = 3
        del lines[at : at + 3]

    change(tmp_path, 1, lose)
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert "1 holes" in verdict.notes[0]


def test_decisions_that_were_heard_ahead_of_applying_may_be_in_the_hole(tmp_path: Path) -> None:
    end(run(tmp_path))

    def lose(lines: Lines) -> None:
        ahead = [find(lines, "commit", round) for round in (3, 4, 5)]
        at, clock = lines.index(ahead[0]), [line["mono"] for line in lines]
        lines[at:] = [*ahead, *(line for line in lines[at:] if line not in ahead)]
        for seq, (line, mono) in enumerate(zip(lines, clock, strict=True)):
            line |= {"seq": seq, "mono": mono}
        ahead[2]["lost"] = 2
        del lines[at : at + 2]

    change(tmp_path, 1, lose)
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert "1 holes" in verdict.notes[0]


def test_rotated_histories_are_checked_as_far_as_they_go(tmp_path: Path) -> None:
    everybody = [Member(tmp_path, i) for i in range(2)]
    everybody[1].history = History(tmp_path, member=KEYS[1], nonce=b"small...", segment_nbytes=4000, segments=3)
    everybody[0].found(EPOCH, everybody)
    everybody[1].join(EPOCH, 0, everybody[0])
    for round in range(30):
        for member in everybody:
            member.decide(EPOCH, round, everybody, everybody)
    verdict = check(tmp_path)
    assert verdict.green, verdict.violations
    assert "1 holes" in verdict.notes[0]


def test_a_flood_of_violations_is_counted_but_not_kept(tmp_path: Path) -> None:
    end(run(tmp_path, rounds=1500))
    change(tmp_path, 1, lambda lines: [line.update(sent=1) for line in lines if "sent" in line] and None)
    verdict = check(tmp_path)
    assert len(verdict.violations) == 1000
    assert verdict.broken["bytes"] > 1000


@pytest.mark.slow
def test_a_hundred_thousand_lines_take_seconds(tmp_path: Path) -> None:
    end(run(tmp_path, rounds=4200, members=8 - 1))
    assert sum(len(path.read_bytes().splitlines()) for path in tmp_path.iterdir()) > 85_000
    began = time.perf_counter()
    assert check(tmp_path).green
    assert time.perf_counter() - began < 30


def test_json_of_a_line_is_what_the_docs_say(tmp_path: Path) -> None:
    run(tmp_path, rounds=2)
    line = json.loads(next(tmp_path.glob("*.jsonl")).read_text().splitlines()[0])
    assert {"kind", "seq", "member", "nonce", "wall", "mono"} <= line.keys()
