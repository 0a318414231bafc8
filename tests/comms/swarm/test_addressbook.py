"""Addresses remembered: newest first, bounded, and no file can be so bad that it stops anybody."""

import json
import os
from pathlib import Path

import pytest

from thinwire.comms.swarm.addressbook import MAX_ADDRESSES, MAX_RUNS, AddressBook, state_folder


def test_newest_first_once_and_bounded(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "new" / "addresses.json")
    assert book.recall("run") == []
    book.remember("run", ["/a", "/b"])
    book.remember("run", ["/c", "/a"])
    assert AddressBook(book.path).recall("run") == ["/c", "/a", "/b"]
    book.remember("run", [f"/{i}" for i in range(100)])
    assert len(book.recall("run")) == MAX_ADDRESSES
    for i in range(MAX_RUNS):
        book.remember(f"run {i}", ["/x"])
    assert book.recall("run") == []
    assert len(book.recall(f"run {MAX_RUNS - 1}")) == 1
    assert os.listdir(book.path.parent) == ["addresses.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"run": 5}', '{"run": [1, null, {}]}', "[" * 100_000, '{"run": ["' + "x" * 600 + '"]}']
)
def test_a_damaged_file_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "addresses.json"
    path.write_text(text)
    book = AddressBook(path)
    assert book.recall("run") == []
    book.remember("run", ["/a"])
    assert json.loads(path.read_text())["run"] == ["/a"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    book = AddressBook(tmp_path / "file" / "addresses.json")
    book.remember("run", ["/a"])
    assert book.recall("run") == []


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert AddressBook().path == tmp_path / "thinwire" / "addresses.json"
    assert state_folder() == tmp_path / "thinwire"
