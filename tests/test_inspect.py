"""`thinwire inspect`: what is in a checkpoint or a wire frame."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.optim.problem import adamw, learn, model, run_members
from thinwire import DiLoCo, LocalGroup, cli
from thinwire.comms.wire import Header, RoundKey, frame
from thinwire.optim.checkpoint import to_tensors
from thinwire.verbs.inspect import inspect


def checkpoint() -> dict[str, Any]:
    """Of a member in the middle of its third window."""

    def member(rank: int, group: LocalGroup) -> dict[str, Any]:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=3, group=group)
        for step in range(7):
            learn(net, opt, step, rank)
        return {"model": net.state_dict(), "optimizer": opt.state_dict(), "epoch": 2}

    return run_members(2, member)[0]


def frames(n: int) -> bytes:
    made = b""
    for i in range(n):
        payload = torch.arange(5 + i, dtype=torch.uint8)
        header = Header(1, 2, RoundKey(0, i, 0), member=i, flags=0, steps=5, state=7, nbytes=5 + i)
        made += bytes(frame(header, payload).tolist())
    return made


def told(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int = 0) -> str:
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    assert cli.run(["inspect", *words])[0] == code
    return capsys.readouterr().out


def test_a_checkpoint_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    state, path = checkpoint(), tmp_path / "x.pt"
    torch.save(state, path)
    found = json.loads(told([str(path), "--json"], capsys, monkeypatch))
    assert found["kind"] == "torch checkpoint"
    assert found["nbytes"] == path.stat().st_size
    numbers = found["optimizers"]["optimizer"]
    assert (numbers["round"], numbers["steps"], numbers["window"]) == (2, 7, 1)
    assert "BlockMax" in numbers["codec"]
    names = {each["name"]: each for each in found["tensors"]}
    assert names["model/0.weight"]["shape"] == [67, 6]
    assert sum(each["nbytes"] for each in names.values() if each["name"].startswith("model/")) == 4 * sum(
        value.numel() for value in state["model"].values()
    )
    assert any("thinwire.anchor" in name for name in names)
    shown = told([str(path)], capsys, monkeypatch)
    assert "model/0.weight" in shown
    assert "round 2" in shown
    plain = told([str(path), "--plain"], capsys, monkeypatch).splitlines()
    assert len(plain) == 2 + len(names)
    assert f"{names['model/0.weight']['hash']} 1608 float32 [67, 6] model/0.weight" in plain


def test_the_same_weights_have_the_same_hashes_in_either_format(tmp_path: Path) -> None:
    state = checkpoint()
    tensors, metadata = to_tensors(state["optimizer"])
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    torch.save(tensors, tmp_path / "x.pt")
    mine, theirs = inspect(tmp_path / "x.safetensors"), inspect(tmp_path / "x.pt")
    assert sorted(mine.tensors, key=str) == sorted(theirs.tensors, key=str)
    assert mine.optimizers["thinwire.optimizer"]["round"] == 2


def test_frames_are_told_apart_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "frames"
    path.write_bytes(frames(3))
    found = json.loads(told([str(path), "--json"], capsys, monkeypatch))
    assert [(each["round"], each["member"], each["nbytes"], each["sound"]) for each in found["frames"]] == [
        (i, i, 5 + i, True) for i in range(3)
    ]
    assert "3 frames" in told([str(path)], capsys, monkeypatch)
    spoiled = bytearray(frames(2))
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    found = json.loads(told([str(path), "--json"], capsys, monkeypatch, code=1))
    assert [each["sound"] for each in found["frames"]] == [True, False]
    path.write_bytes(frames(2)[:-1])
    found = json.loads(told([str(path), "--json"], capsys, monkeypatch, code=1))
    assert found["frames"][1]["error"] == "77 bytes that are no whole frame of version 1"


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "begins with b''"),
        (b"nonsense that is long enough", "no wire frame (b'TWIR'), no torch checkpoint"),
        (b'{"kind": "commit"}', "histories are for `thinwire verify`"),
        (b"PK\x03\x04 and no zip", "a zip file that torch.load(weights_only=True) refuses"),
        (b"\x20\0\0\0\0\0\0\0{" + b"x" * 64, "is no whole safetensors file"),
        (pickle.dumps(Evil()), "no torch checkpoint"),
    ],
)
def test_other_files_are_one_sentence(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    code, sentence = cli.run(["inspect", str(path)])
    assert code == 2
    assert sentence.startswith("error: ")
    assert said in sentence
    assert "\n" not in sentence
    assert capsys.readouterr().out == ""


def test_pickles_within_a_checkpoint_are_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"x": Evil()}, tmp_path / "x.pt")
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    assert cli.run(["inspect", str(tmp_path / "x.pt")])[0] == 2
    assert cli.run(["inspect", str(tmp_path)]) == (2, cli.run(["inspect", str(tmp_path)])[1])
    assert cli.run(["inspect", str(tmp_path / "none")])[0] == 2
    assert "run" not in capsys.readouterr().out
