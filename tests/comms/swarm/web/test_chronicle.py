"""What the page tells of a swarm is what happened in it, whatever single peers say."""

import json
from typing import Any

import pytest

from thinwire.comms.swarm.status import Status
from thinwire.comms.swarm.watch import MOST
from thinwire.comms.swarm.web.chronicle import Chronicle, agreement, reached
from thinwire.output import encoded

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
BEGAN = 1000.0


class Story:
    """A look a second at a chronicle."""

    def __init__(self) -> None:
        self.chronicle, self.now = Chronicle("my-run", now=BEGAN, period_s=1.0), BEGAN
        self.announced: set[bytes] = set()

    def look(self, answers: dict[bytes, Any], times: int = 1) -> "Story":
        self.announced |= answers.keys()
        for _ in range(times):
            self.chronicle.look(self.now, answers, self.announced)
            self.now += 1.0
        return self

    def told(self, span: Any = "recent") -> dict[str, Any]:
        told = json.loads(encoded(self.chronicle.told(span)))
        assert isinstance(told, dict)
        return told

    def row(self, key: bytes) -> dict[str, Any]:
        return next(row for row in self.told()["rows"] if row["key"] == key.hex())

    def events(self) -> list[tuple[str, str]]:
        return [(bytes.fromhex(event["key"])[:1].decode(), event["what"]) for event in self.told()["events"]]


def says(*, absent: dict[bytes, str] | None = None, **about: Any) -> Status:
    given = {"round": 9, "applied": 9, "epoch": "abcd", "members": 3, "uptime_s": 100, "member_s": 90.0, **about}
    return Status(**given, absent={key.hex()[:16]: why for key, why in (absent or {}).items()})


def test_states_of_members_are_shown_as_they_tell_them() -> None:
    story = Story().look({A: says(), B: says(state="syncing"), C: says(state="joining", member_s=0.0)}, times=3)
    assert [(row["state"], row["track"]) for row in story.told()["rows"]] == [("training", "ttt"), ("syncing", "sss"), ("joining", "jjj")]
    assert story.events() == []


@pytest.mark.parametrize(("why", "state", "what"), [("down", "dead", "died"), ("silent", "dead", "died"), ("left", "left", "left")])
def test_who_is_missed_by_the_members_is_dead_or_has_left(why: str, state: str, what: str) -> None:
    story = Story().look({A: says(), B: says(), C: says()})
    story.look({A: says(absent={C: why}), B: says(absent={C: why}), C: None})
    assert (story.row(C)["state"], story.row(C)["track"]) == (state, f"t{state[0]}")
    assert story.events() == [("c", what)]
    story.look({A: says(), B: says(), C: "unreachable"}, times=3)  # by and by the members forget it
    assert (story.row(C)["state"], story.row(C)["error"]) == (state, "" if state == "left" else "unreachable")
    assert len(story.events()) == 1


def test_who_does_not_answer_here_but_is_not_missed_there_is_not_called_dead() -> None:
    story = Story().look({A: says(), B: says(), C: says()})
    story.look({A: says(), B: says(), C: "unreachable"}, times=3)
    assert (story.row(C)["state"], story.row(C)["error"]) == ("no answer", "unreachable")
    assert Story().look({A: says(), C: says()}).look({A: says(), C: "stalled"}).look({A: says(), C: says()}).events() == []
    story.look({A: says(absent={C: "down"}), B: says(), C: "unreachable"})
    assert story.row(C)["state"] == "dead"  # one of two
    other = Story().look({key: says() for key in (A, B, C, b"d" * 32)})
    other.look({A: says(absent={C: "down"}), B: says(), b"d" * 32: says(), C: "unreachable"})
    assert other.row(C)["state"] == "no answer"  # one of three may lie


def test_who_answers_is_alive_whatever_others_say() -> None:
    story = Story().look({A: says(), B: says(absent={A: "down"}), C: says(absent={A: "left"})}, times=2)
    assert story.row(A)["state"] == "training"


def test_who_may_still_answer_stays_what_it_was() -> None:
    story = Story().look({A: says(), B: says()}).look({A: says(), B: None})
    assert story.row(B)["state"] == "training"


def test_who_is_announced_no_more_and_answers_nobody_is_dead() -> None:
    story = Story().look({A: says(), B: says()})
    story.announced -= {B}
    story.chronicle.look(story.now, {A: says()}, story.announced)
    assert story.row(B)["state"] == "dead"


def test_a_member_that_comes_back_heals_then_trains() -> None:
    story = Story().look({A: says(), B: says()}, times=2).look({A: says(absent={B: "down"}), B: "unreachable"}, times=3)
    story.look({A: says(absent={B: "down"}), B: says(state="joining", uptime_s=1, member_s=0.0)}, times=2)
    assert story.row(B)["state"] == "healing"
    story.look({A: says(), B: says(uptime_s=3, member_s=0.5, entering_s=2.0)}).look(
        {A: says(), B: says(uptime_s=4, member_s=1.5, entering_s=2.0)}
    )
    assert story.row(B)["track"] == "ttddhhhtt"
    assert story.events() == [("b", "died"), ("b", "came back")]


def test_healing_that_was_over_before_anybody_looked_is_shown_all_the_same() -> None:
    story = Story().look({A: says(), B: says()}).look({A: says(absent={B: "down"}), B: "unreachable"}, times=4)
    story.look({A: says(), B: says(uptime_s=1, member_s=0.2, entering_s=1.5)}).look(
        {A: says(), B: says(uptime_s=2, member_s=1.2, entering_s=1.5)}
    )
    assert story.row(B)["track"] == "tddhhtt"  # from 1003.3 on it took the state; it has been a member since 1004.8
    assert story.row(B)["state"] == "training"


def test_a_restart_between_two_looks_is_no_secret() -> None:
    story = Story().look({A: says()}, times=3).look({A: says(uptime_s=0, member_s=0.1, entering_s=0.2)})
    assert story.events() == [("a", "restarted")]
    assert story.row(A)["track"] == "ttht"


def test_a_newcomer_is_told_and_its_joining_painted_but_not_before_the_page_began() -> None:
    story = Story().look({A: says()}, times=4).look({A: says(), B: says(uptime_s=2, member_s=0.4, entering_s=2.0)})
    assert story.events() == [("b", "joined")]
    assert story.row(B)["track"] == " jjjt"
    assert Story().look({A: says(uptime_s=2, member_s=0.4, entering_s=2.0)}).row(A)["track"] == "t"


def test_what_a_peer_says_of_its_past_changes_nothing_that_was_seen() -> None:
    story = Story().look({A: says(), B: says()}, times=3)
    story.look({A: says(), B: says(member_s=0.1, entering_s=2.0**31)}, times=2)
    assert story.row(A)["track"] == "ttttt"
    assert story.row(B)["track"].startswith("tt")


def test_a_swarm_that_vanishes_is_told_with_the_time() -> None:
    story = Story().look({A: says(), B: says()}, times=2).look({A: "unreachable", B: "unreachable"}, times=3)
    told = story.told()
    assert (told["heard"], told["now"], told["answer"], told["round"]) == (1001.0, 1004.0, 0, 9)
    assert {row["state"] for row in told["rows"]} == {"no answer"}  # perhaps it is this machine
    assert Story().look({}).told()["heard"] is None


def test_ledger_and_lag() -> None:
    about = {"sent": 10, "received": 20, "payload": 5, "counted": 3, "skipped": {"late": 2}, "rejected": 7, "reasons": {"decided": 7}}
    story = Story().look({A: says(applied=9, **about), B: says(applied=7)})
    row = story.row(A)
    assert {name: row[name] for name in about} == about
    assert (row["lag"], story.row(B)["lag"], story.told()["round"]) == (0, 2, 9)


def test_bytes_are_added_up_from_the_beginning_of_the_page_over_restarts_and_against_lies() -> None:
    story = Story().look({A: says(sent=1 << 61), B: says(sent=500)}).look({A: says(sent=(1 << 61) + 100), B: says(sent=600)})
    assert story.told()["curves"]["sent"] == [0, 200]
    story.look({A: says(sent=1 << 62), B: says(sent=50, uptime_s=0, member_s=0.1)})
    assert story.told()["curves"]["sent"] == [0, 200, 250]


def test_of_losses_the_middle_is_shown_so_that_no_single_liar_moves_it() -> None:
    losses = [2.0, 2.1, 2.2, 1e300, float("nan")]
    story = Story().look({bytes([i]) * 32: says(loss=loss) for i, loss in enumerate(losses)})
    curves = story.told()["curves"]
    assert 2.0 <= curves["low"][0] <= curves["middle"][0] <= 2.2
    assert story.told()["rows"][4]["loss"] is None


def test_replicas_are_compared_at_the_last_round_that_they_share() -> None:
    one, two = "1" * 16, "2" * 16
    assert agreement({A: says(hashes={50: one, 100: two}), B: says(hashes={50: one}), C: says(hashes={100: two})}) == {
        A: True,
        B: True,
        C: True,
    }
    assert agreement({A: says(hashes={50: one}), B: says(hashes={50: one}), C: says(hashes={50: two})}) == {A: True, B: True, C: False}
    assert agreement({A: says(hashes={50: one}), B: says(hashes={50: two})}) == {A: False, B: False}
    assert agreement({A: says(hashes={50: one}), B: says(hashes={100: two})}) == {}
    assert agreement({A: says(hashes={50: one}), B: says(hashes={50: two}, epoch="other")}) == {}


def test_who_says_of_itself_what_no_member_is_is_not_believed() -> None:
    story = Story().look({A: says(state="winning")})
    assert (story.row(A)["state"], story.row(A)["error"]) == ("no answer", "says of itself what no member is")


def test_ten_thousand_that_are_announced_do_not_hide_those_that_answer() -> None:
    story = Story()
    strangers = {i.to_bytes(32, "big"): "does not answer" for i in range(1, 10_001)}
    story.look(strangers).look({A: says(), B: says()}, times=2)
    told = story.told()
    assert (len(told["rows"]), told["announced"], told["answer"]) == (MOST, 10_002, 2)
    assert story.row(A)["state"] == story.row(B)["state"] == "training"
    liars = {i.to_bytes(32, "big"): says() for i in range(20_000, 30_000)}
    story.look({A: says(), B: says()} | liars)
    assert len(story.told()["rows"]) == MOST
    assert story.row(A)["state"] == "training"
    assert len(encoded(story.chronicle.told("recent"))) < 300_000


def test_no_single_peer_puts_all_others_behind() -> None:
    story = Story().look({A: says(applied=9), B: says(applied=8), C: says(applied=1 << 62)})
    assert [row["lag"] for row in story.told()["rows"]] == [0, 1, 0]
    assert reached([8, 9]) == 9


def test_who_was_announced_and_never_there_is_forgotten_with_its_notice() -> None:
    story = Story().look({A: says(), B: "unreachable"})
    assert story.row(B)["state"] == "no answer"
    story.announced -= {B}
    story.chronicle.look(story.now, {A: says()}, story.announced)
    assert [row["key"] for row in story.told()["rows"]] == [A.hex()]


def test_those_that_were_gone_before_the_time_that_is_shown_are_only_counted() -> None:
    story = Story().look({A: says(), B: says()}).look({A: says(absent={B: "down"}), B: "unreachable"}, times=700)
    told = story.told()
    assert ([row["key"] for row in told["rows"]], told["gone"]) == ([A.hex()], 1)
    assert [row["key"] for row in story.told("whole")["rows"]] == [A.hex(), B.hex()]


def test_a_page_that_is_left_open_for_days_does_not_grow() -> None:
    story = Story()
    up = {A: says(loss=2.0), B: says(loss=2.0)}
    for i in range(2000):  # three days: a look every 130 s asks as much of what is kept as one a second
        story.now += 129.0
        story.look(up if i % 100 else {A: says(absent={B: "down"}), B: "unreachable"})
    told = story.told("whole")
    assert 300 <= len(told["rows"][0]["track"]) <= 600
    assert (len(told["events"]), len(encoded(told)) < 40_000) == (39, True)
    assert told["end"] - told["start"] == pytest.approx(3 * 86400, rel=0.01)
