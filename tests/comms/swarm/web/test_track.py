"""Columns hold what happened when it happened, and there are never more than so many."""

import pytest

from thinwire.comms.swarm.web import track as module
from thinwire.comms.swarm.web.track import LETTERS, STATES, Track

A, B = b"a", b"b"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS", 8)


def of(states: str, *, rolls: bool = False, width_s: float = 1.0) -> Track:
    """A look a second; a letter each, a space for no look."""
    track = Track(began=100.0, width_s=width_s, rolls=rolls)
    for i, letter in enumerate(states):
        if letter != " ":
            track.advance(100.0 + i)
            track.put(A, STATES[LETTERS.index(letter)])
    return track


def test_a_look_is_a_column() -> None:
    track = of("jtsthdnl")
    assert track.letters(A) == "jtsthdnl"
    assert track.letters(B) == ""


def test_what_rolls_keeps_the_last_columns() -> None:
    track = of("jtsthdnlttss", rolls=True)
    assert (track.letters(A), track.start, track.width_s) == ("hdnlttss", 104.0, 1.0)


def test_what_does_not_keeps_all_of_it_in_longer_columns() -> None:
    track = of("jtttttttts")
    assert (track.letters(A), track.start, track.width_s) == ("jttts", 100.0, 2.0)
    track = of("t" * 8 * 64 + "d" + "t" * 70)
    assert (track.letters(A), track.width_s) == ("ttttd", 128.0)


def test_of_a_long_column_what_is_rare_and_matters_is_shown() -> None:
    assert of("tttt", width_s=4).letters(A) == "t"
    assert of("tsst", width_s=4).letters(A) == "s"
    assert of("tttd", width_s=4).letters(A) == "d"
    assert of("tdht", width_s=4).letters(A) == "h"
    assert of("nntt", width_s=4).letters(A) == "t"
    assert of("nnnt", width_s=4).letters(A) == "n"
    assert of("tlll", width_s=4).letters(A) == "t"


def test_a_look_that_came_late_stands_for_the_time_since_the_one_before() -> None:
    assert of("t  d").letters(A) == "tddd"


def test_where_nobody_looked_for_long_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAP", 2)
    assert of("t  d").letters(A) == "t  d"
    assert of("t" + " " * 50 + "d", rolls=True).letters(A) == "       d"


def test_a_clock_that_is_set_back_changes_nothing_that_was() -> None:
    track = of("tts")
    track.advance(50.0)
    track.put(A, "dead")
    track.put(B, "training")
    assert track.letters(A) == "ttd"
    assert track.letters(B) == "  t"


def test_what_comes_out_afterwards_is_painted_over() -> None:
    track = of("ttddddt")
    track.repaint(A, "healing", 104.5, 106.2)
    assert track.letters(A) == "ttddhhh"
    track.repaint(A, "healing", 0.0, 100.5)
    assert track.letters(A) == "htddhhh"
    track.repaint(B, "joining", 105.0, 105.5)
    assert track.letters(B) == "     j "


def test_of_what_was_too_short_for_a_column_one_is_shown_and_what_came_after_is_kept() -> None:
    track = of("ttddt")
    track.repaint(A, "healing", 104.1, 104.2)
    assert track.letters(A) == "ttddh"
    track.advance(105.0)
    track.put(A, "training")
    assert track.letters(A) == "ttddht"


@pytest.mark.parametrize("rolls", [False, True])
def test_curves_are_means_or_the_most_of_a_column(rolls: bool) -> None:
    track = Track(began=0.0, width_s=1.0, rolls=rolls)
    for i in range(16):
        track.advance(float(i))
        if i != 5:
            track.curve("loss", float(i))
        track.curve("sent", 10.0 * i, "most")
    if rolls:
        assert track.values("loss") == [8, 9, 10, 11, 12, 13, 14, 15]
        assert track.values("sent") == [80, 90, 100, 110, 120, 130, 140, 150]
    else:
        assert track.values("loss") == [0.5, 2.5, 4, 6.5, 8.5, 10.5, 12.5, 14.5]
        assert track.values("sent") == [10, 30, 50, 70, 90, 110, 130, 150]


def test_where_a_curve_has_nothing_it_says_nothing() -> None:
    track = of("tt")
    track.curve("loss", 2.0)
    assert track.values("loss") == [None, 2.0]
    assert track.values("other") == [None, None]


def test_it_never_grows() -> None:
    track = of("t" * 1000)
    assert len(track.letters(A)) <= 8
    track.drop(A)
    assert track.letters(A) == ""
