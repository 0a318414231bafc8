"""`thinwire run`: a script sees its own region, the optimizer what lies between regions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thinwire import cli
from thinwire.comms.meeting import in_environment
from thinwire.comms.region import NODE, PROCESS, apart
from thinwire.verbs.run import free_port, wrapped

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = Path(sys.executable).with_name("torchrun")


def torchruns(rank: int, *, here: int = 2, nodes: int = 2) -> dict[str, str]:
    """What torchrun gives a process of `nodes` machines with `here` processes each."""
    numbers = {
        "RANK": rank,
        "WORLD_SIZE": here * nodes,
        "LOCAL_RANK": rank % here,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_RANK": rank // here,
        "GROUP_WORLD_SIZE": nodes,
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": here * nodes,
        "MASTER_PORT": 29500,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    words = {"MASTER_ADDR": "far.example", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "x", "HOME": "/home/me"}
    return words | {name: str(value) for name, value in numbers.items()}


def test_a_region_of_several_processes_is_a_world_of_its_own() -> None:
    made = apart(torchruns(3), NODE, "1234")
    within = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    assert within.items() <= made.items()
    assert (made["MASTER_ADDR"], made["MASTER_PORT"]) == ("127.0.0.1", "1234")
    assert "TORCHELASTIC_RUN_ID" not in made  # whoever finds it takes the store of the agent for its own
    between = {"RANK": "1", "WORLD_SIZE": "2", "SHARD": "1", "MASTER_ADDR": "far.example", "MASTER_PORT": "29500", "ONE_HOST": "0"}
    assert {f"THINWIRE_{name}": value for name, value in between.items()}.items() <= made.items()
    assert made["HOME"] == "/home/me"


@pytest.mark.parametrize(("region", "here", "nodes"), [(NODE, 1, 3), (PROCESS, 2, 2), (PROCESS, 3, 1)])
def test_a_region_of_one_process_sees_no_world(region: str, here: int, nodes: int) -> None:
    for rank in range(here * nodes):
        made = apart(torchruns(rank, here=here, nodes=nodes), region)
        assert not [name for name in made if name.startswith(("RANK", "WORLD", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"))]
        assert (made["THINWIRE_RANK"], made["THINWIRE_WORLD_SIZE"]) == (str(rank), str(here * nodes))
        assert (made["THINWIRE_SHARD"], made["THINWIRE_ONE_HOST"]) == ("0", str(int(nodes == 1)))


@pytest.mark.parametrize(
    ("env", "region", "said"),
    [
        ({"HOME": "x"}, NODE, "the environment lacks RANK, WORLD_SIZE, .*; start with `thinwire run -- torchrun ... train.py`"),
        (torchruns(0, here=4, nodes=1), NODE, "only one region.*--region process makes every process a region"),
        (torchruns(0, here=1, nodes=1), PROCESS, "only one region.*start torchrun on each machine"),
        (
            torchruns(0) | {"LOCAL_WORLD_SIZE": "3"},
            NODE,
            "starts 3 processes, all 2 start 4.*give every torchrun the same --nproc-per-node",
        ),
    ],
)
def test_a_world_that_has_no_regions_is_one_sentence(env: dict[str, str], region: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        apart(env, region)


@pytest.mark.parametrize(
    ("words", "head", "tail"),
    [
        (["torchrun", "--nnodes", "2", "t.py", "--nnodes", "9"], ["torchrun", "--nnodes", "2"], ["-u", "t.py", "--nnodes", "9"]),
        (["/x/torchrun", "--standalone", "-m", "a.b", "-m"], ["/x/torchrun", "--standalone"], ["-u", "-m", "a.b", "-m"]),
        (["torchrun", "--no-python", "./train", "-u"], ["torchrun"], ["./train", "-u"]),
        (
            ["py", "-m", "torch.distributed.run", "--nproc-per-node=2", "t.py"],
            ["py", "-m", "torch.distributed.run", "--nproc-per-node=2"],
            ["t.py"],
        ),
    ],
)
def test_torchrun_starts_our_file_and_that_the_script(words: list[str], head: list[str], tail: list[str]) -> None:
    command = wrapped(words)
    assert command[: len(head)] == head
    assert command[len(head) : len(head) + 2] == ["--no-python", sys.executable]
    assert Path(command[len(head) + 2]) == ROOT / "comms" / "region.py"
    assert command[-len(tail) :] == tail


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "'nothing' is not torchrun"),
        (["python", "train.py"], "'python' is not torchrun; say: thinwire run -- torchrun"),
        (["torchrun", "--nnodes", "2"], "torchrun does not understand: --nnodes 2"),
        (["torchrun", "--no-such", "t.py"], "torchrun does not understand: --no-such"),
    ],
)
def test_what_is_no_torchrun_is_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}")


def test_an_optimizer_finds_either_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "THINWIRE_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not in_environment()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert in_environment()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("THINWIRE_WORLD_SIZE", "2")
    assert in_environment()


SCRIPT = """
import hashlib, os, sys
import torch
import thinwire
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Linear(40, 40)
model = net
if "RANK" in os.environ:  # as accelerate or Lightning would
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(net)
opt = thinwire.DiLoCo(torch.optim.AdamW(net.parameters(), lr=1e-2), sync_every=2, codec="int8")
data = torch.Generator().manual_seed(10 * int(os.environ["THINWIRE_RANK"]) + int(os.environ.get("RANK", 0)))
for _ in range(4):
    opt.zero_grad()
    model(torch.randn(4, 40, generator=data)).square().mean().backward()
    opt.step()
opt.close()
held = hashlib.sha256(net.weight.detach().numpy().tobytes()).hexdigest()
print(f"ended {opt.round} {len(opt.group.members)} {held} {' '.join(sys.argv[1:])};")
if "RANK" in os.environ:
    torch.distributed.destroy_process_group()
"""


def started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "thinwire.cli", "run", *words, str(script), "--an", "argument"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("THINWIRE_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=folder)


def ends(*processes: "subprocess.Popen[str]") -> list[list[str]]:
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(told)
    return [line.split() for each in told for line in re.findall(r"ended ([^;]*);", each)]  # two processes may share a line


def test_two_regions_on_this_machine_end_with_the_same_bits(tmp_path: Path) -> None:
    process = started(tmp_path, "--region", "process", "--", str(TORCHRUN), "--standalone", "--nproc-per-node", "2")
    first, second = ends(process)
    assert first == second
    assert (first[1], first[3:]) == ("2", ["--an", "argument"])


@pytest.mark.slow
def test_two_machines_with_ddp_within_each_end_with_the_same_bits(tmp_path: Path) -> None:
    words = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    told = ends(*(started(tmp_path, "--", str(TORCHRUN), *words) for _ in range(2)))
    assert len(told) == 4
    assert all(each == told[0] for each in told)
