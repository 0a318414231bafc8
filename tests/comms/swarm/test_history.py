"""What a member writes can be read again, whatever the disk or a kill did."""

import errno
import itertools
import logging
import os
import threading
from pathlib import Path

import pytest

from thinwire.comms.swarm import history as module
from thinwire.comms.swarm.history import History, HistoryError, read

KEY, NONCE = b"k" * 32, b"n" * 8


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        history.append("join", digest=b"e" * 32, round=4, after=b"s" * 32)
        history.append("commit", round=4, counted={KEY: b"d" * 32}, skipped={b"x" * 32: "late"}, members=(KEY,), ballot=2)
    first, second = read(tmp_path)
    assert (first.kind, first.seq, first.member, first.nonce, first.round, first.after) == (
        "join", 0, KEY.hex(), NONCE.hex(), 4, "73" * 32,
    )  # fmt: skip
    assert (second.seq, second.counted, second.skipped, second.members) == (
        1, {KEY.hex(): "64" * 32}, {"78" * 32: "late"}, [KEY.hex()],
    )  # fmt: skip
    assert second.mono >= first.mono
    assert second.ballot == 2


def test_a_field_that_no_event_has_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE) as history, pytest.raises(TypeError, match="colour"):
        history.append("join", colour="red")


def test_a_torn_last_line_is_no_event(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        history.append("join", round=0)
        history.append("begin", round=0)
    whole = history.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        history.path.write_bytes(whole[:cut])
        assert [event.kind for event in read(tmp_path)] == ["join"]


def test_a_broken_line_elsewhere_is_named(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        for _ in range(3):
            history.append("have", round=0)
    for i, spoilt in enumerate((b'{"kind": "have"}', b"\xff\xfe", b"", b"null", b'{"kind":"dance"}')):
        lines = history.path.read_bytes().split(b"\n")
        lines[1] = spoilt
        other = tmp_path / str(i)
        other.mkdir()
        (other / history.path.name).write_bytes(b"\n".join(lines))
        with pytest.raises(HistoryError, match=rf"{history.path.name}:2 is no event"):
            list(read(other))


def test_a_folder_without_histories_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ledger-0.jsonl").write_text("{}\n")
    with pytest.raises(HistoryError, match="holds no history"):
        list(read(tmp_path))


def test_a_full_segment_is_followed_by_the_next_and_the_oldest_goes_but_the_first_stays(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE, segment_nbytes=600, segments=3) as history:
        for round in range(40):
            history.append("begin", round=round)
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert all(path.stat().st_size <= 600 for path in files)
    rounds = [event.round for event in read(tmp_path)]
    assert rounds[0] == 0
    assert rounds[-1] == 39
    assert rounds == sorted(set(rounds))


def test_a_full_disk_breaks_nothing_is_told_once_and_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = os.write, True

    def device(fd: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        history.append("join", round=0)
        monkeypatch.setattr(module.os, "write", device)
        with caplog.at_level(logging.ERROR, "thinwire"):
            for _ in range(5):
                history.append("have", round=0)
        full = False
        history.append("begin", round=1)
        history.append("begin", round=2)
    assert history.lost == 5
    assert [record.message.count("No space left") for record in caplog.records] == [1]
    assert [(event.seq, event.lost) for event in read(tmp_path)] == [(0, 0), (6, 5), (7, 0)]


def test_half_a_line_on_a_full_disk_is_a_torn_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        history.append("join", round=0)
        monkeypatch.setattr(module.os, "write", lambda fd, data: write(fd, data[:20]))
        history.append("have", round=0)
        monkeypatch.undo()
        history.append("begin", round=1)
    assert [(event.kind, event.lost) for event in read(tmp_path)] == [("join", 0), ("begin", 1)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_the_systems_own_full_disk_breaks_nothing(tmp_path: Path) -> None:
    history = History(tmp_path, member=KEY, nonce=NONCE)
    history.path.symlink_to("/dev/full")
    with history:
        history.append("join", round=0)
    assert history.lost == 1


def test_threads_write_whole_lines_in_order(tmp_path: Path) -> None:
    with History(tmp_path, member=KEY, nonce=NONCE) as history:
        threads = [threading.Thread(target=lambda: [history.append("have", round=0) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = list(read(tmp_path))
    assert [event.seq for event in events] == list(range(200))
    assert all(b.mono >= a.mono for a, b in itertools.pairwise(events))


def test_what_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    history = History(tmp_path, member=KEY, nonce=NONCE)
    history.append("leave")
    history.close()
    history.close()
    history.append("have", round=0)
    assert len(list(read(tmp_path))) == 1
