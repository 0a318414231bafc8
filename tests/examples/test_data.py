from pathlib import Path

import pytest
import torch

from examples.multiregion import data
from examples.multiregion.data import Batches, is_held_out, load, validation_batches
from examples.multiregion.model import CONTEXT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(100):
        (tmp_path / f"{i}.txt").write_bytes(bytes([i]) * 50)
    return tmp_path


def test_the_standard_library_gives_ten_megabytes_and_a_twentieth_held_out() -> None:
    text = load()
    assert 5e6 < len(text.train) < 20e6
    assert 0.02 < len(text.validation) / len(text.train) < 0.1


def test_no_file_is_in_both_parts_and_none_is_lost(folder: Path) -> None:
    text = load(folder)
    train, validation = set(text.train.tolist()), set(text.validation.tolist())
    assert not train & validation
    assert train | validation == set(range(100))
    assert validation == {i for i in range(100) if is_held_out(f"{i}.txt")}


def test_the_split_does_not_depend_on_where_the_folder_lies(folder: Path) -> None:
    before = load(folder)
    moved = folder.rename(folder.parent / "elsewhere")
    assert torch.equal(load(moved).train, before.train)


def test_tests_and_tables_are_not_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.py").write_bytes(b"t" * 1000)
    (tmp_path / "table.py").write_bytes(b"l" * (data.LONGEST + 1))
    (tmp_path / "code.py").write_bytes(b"c" * 10_000)
    monkeypatch.setattr(data.sysconfig, "get_path", lambda name: str(tmp_path))
    text = load()
    assert set(text.train.tolist()) | set(text.validation.tolist()) == {ord("c")}


def test_a_single_file_is_cut_at_95_percent(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(bytes(range(200)) * 50)
    text = load(tmp_path / "book.txt")
    assert (len(text.train), len(text.validation)) == (9500, 500)


def test_too_little_text_is_refused_with_the_number_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes"):
        load(tmp_path / "note.txt")
    with pytest.raises(ValueError, match="there is no"):
        load(tmp_path / "nothing-here")


def test_batches_go_on_where_they_were_saved() -> None:
    text = torch.arange(1000, dtype=torch.int64).to(torch.uint8)
    first = Batches(text, size=4, seed=1)
    first.draw()
    saved = first.state_dict()
    expected = first.draw()
    second = Batches(text, size=4, seed=2)
    second.load_state_dict(saved)
    assert torch.equal(second.draw(), expected)


def test_sequences_are_runs_of_the_text() -> None:
    batch = Batches(torch.arange(200, dtype=torch.uint8), size=8, seed=0).draw()
    assert batch.shape == (8, CONTEXT + 1)
    assert bool((batch.diff(dim=1) == 1).all())


def test_the_shortest_text_gives_its_only_sequence() -> None:
    batch = Batches(torch.arange(CONTEXT + 1, dtype=torch.uint8), size=3, seed=0).draw()
    assert batch.tolist() == [list(range(CONTEXT + 1))] * 3


def test_validation_sequences_are_always_the_same(folder: Path) -> None:
    text = load(folder)
    assert torch.equal(torch.stack(validation_batches(text)), torch.stack(validation_batches(text)))
