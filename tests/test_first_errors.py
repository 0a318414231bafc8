"""The first errors that a newcomer meets: each is one sentence that says what is wrong, and what to do."""

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import thinwire
from tests.optim.problem import adamw, model, run_members
from thinwire import ConfigError, DiLoCo, LocalGroup, cli
from thinwire.comms import gloo


@pytest.fixture(autouse=True)
def _same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire"])


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that cannot run prints: one line, on the standard error only."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == cli.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1, told.err
    return told.err


# -- the model -----------------------------------------------------------------------------------------------------------------


def test_a_model_wrapped_in_ddp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[nn.Module] = []  # emptied below: while it lives, every optimizer of these parameters is refused

    def member(rank: int, group: LocalGroup) -> str:
        opt = DiLoCo(adamw(wrapped[0]), sync_every=1, group=group)
        with pytest.raises(ConfigError) as caught:
            opt.step()
        return str(caught.value)

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        wrapped.append(nn.parallel.DistributedDataParallel(model()))
        monkeypatch.setattr(dist, "get_process_group_ranks", lambda _: [0, 1])  # as on two machines
        told = run_members(2, member)[0]
    finally:
        monkeypatch.undo()
        wrapped.clear()
        dist.destroy_process_group()
    assert told.startswith("the model is wrapped in DistributedDataParallel over ranks [0, 1], which are members of this WAN group")
    assert told.endswith("Pass the bare model, or give DDP only the ranks of one region (process_group=...)")


@pytest.mark.parametrize(
    ("wide", "seed", "differs"),
    [
        (True, 0, "member 0 has `.*67.*`, member 1 has `.*80.*`"),
        (
            False,
            1,
            "member 0 has `initial value of parameter 0 .*`, member 1 has `initial value of parameter 0 .*`",
        ),
    ],
)
def test_members_with_different_models_or_weights_are_refused_on_every_member(wide: bool, seed: int, differs: str) -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model(seed * rank)
        if wide and rank:
            net[0] = nn.Linear(6, 80)  # type: ignore[index]
        opt = DiLoCo(adamw(net), sync_every=1, group=group)
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        with pytest.raises(ConfigError, match=differs) as caught:
            opt.step()
        return str(caught.value)

    first, second = run_members(2, member)
    assert first == second
    assert first.startswith("members 0 and 1 do not match: ")
    assert "start every member with the same settings, model and initial weights (same seed or checkpoint, or initial='member0'" in first


# -- the network ---------------------------------------------------------------------------------------------------------------


def test_a_wrong_interface_names_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "wan7")
    with pytest.raises(ConnectionError) as caught:
        gloo.devices("192.0.2.1", one_host=False)
    told = str(caught.value)
    assert told.startswith("gloo cannot listen on 'wan7' (GLOO_SOCKET_IFNAME): ")
    assert told.endswith("; set GLOO_SOCKET_IFNAME to one of " + ", ".join(name for _, name in socket.if_nameindex()))
    assert "\n" not in told


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = said(["serve", "my-run", "--port", str(port), "--folder", str(tmp_path)], capsys)
    assert f"cannot listen on /ip4/0.0.0.0/tcp/{port}: " in told
    assert "Address already in use" in told
    assert told.endswith("; stop what uses it (ss -ltnp), or listen on another port (--port)\n")


# -- what is not installed -----------------------------------------------------------------------------------------------------


OWN = ("thinwire.output", "thinwire.verbs", "thinwire.comms.swarm", "benchmarks.report", "benchmarks.suite")
Without = Callable[..., None]


@pytest.fixture
def without() -> Iterator[Without]:
    """Makes modules missing, and those of ours that may import them be imported anew; afterwards all are as they were."""
    before = dict(sys.modules)

    def block(*names: str) -> None:
        for name in before:
            if name.startswith(tuple(f"{one}." for one in (*OWN, *names))) or name in OWN:
                del sys.modules[name]
        sys.modules.update(dict.fromkeys(names, None))  # type: ignore[arg-type]  # an import of these ends in ModuleNotFoundError

    yield block
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)
    for name, module in before.items():
        parent, _, leaf = name.rpartition(".")
        if name.startswith(OWN) and parent in before:
            setattr(before[parent], leaf, module)


@pytest.mark.parametrize("missing", ["tyro", "rich"])
@pytest.mark.parametrize(
    ("words", "extras"),
    [
        (["inspect", "file.pt"], "cli"),
        (["verify", "history"], "swarm,cli"),
        (["report", "results"], "bench"),
    ],
)
def test_a_verb_without_its_extra_says_which_to_install(
    missing: str, words: list[str], extras: str, without: Without, capsys: pytest.CaptureFixture[str]
) -> None:
    without(missing)
    told = said(words, capsys)
    assert told.startswith(f"error: no module '{missing}")
    assert told.endswith(f"; pip install 'thinwire[{extras}]'\n")


def test_serve_without_hivemind_says_how_to_get_it(without: Without, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without("hivemind")
    told = said(["serve", "my-run", "--folder", str(tmp_path)], capsys)
    assert told.startswith("error: the swarm needs hivemind (")
    assert told.endswith(": pip install 'thinwire[swarm]'\n")


def test_a_safetensors_file_without_safetensors(without: Without, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    without("safetensors")
    assert said(["inspect", str(path)], capsys).endswith("is a safetensors file, and nothing here can read one: pip install safetensors\n")


def test_run_needs_no_extra(without: Without, capsys: pytest.CaptureFixture[str]) -> None:
    without("tyro", "rich", "hivemind", "msgspec", "cryptography")
    assert "'python' is not torchrun; say: thinwire run -- torchrun" in said(["run", "--", "python", "train.py"], capsys)


def test_a_script_that_asks_for_a_swarm_without_the_extra(without: Without) -> None:
    without("msgspec")
    with pytest.raises(ImportError) as caught:
        _ = thinwire.SwarmGroup
    assert str(caught.value) == "thinwire.SwarmGroup needs the module 'msgspec': pip install 'thinwire[swarm]'"
