"""The scripts in examples/integrations: two lines of thinwire each, started as their README says, with the same bits in every region."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "integrations"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "# thinwire\n" in path.read_text())
TORCHRUN = Path(sys.executable).with_name("torchrun")


def test_each_has_two_lines_of_ours_and_is_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)\.py`", (FOLDER / "README.md").read_text(), re.M)
    assert sorted(table) == SCRIPTS
    assert len(SCRIPTS) == 6
    for name in SCRIPTS:
        lines = (FOLDER / f"{name}.py").read_text().splitlines()
        marked = [line for line in lines if line.endswith("# thinwire")]
        assert len(marked) == 2, name
        used = [line for line in lines if re.search(r"\b(thinwire\.|ThinwireCallback)", line) and "import" not in line]
        assert used == [line for line in marked if "opt.close()" not in line], name


def command(name: str) -> list[str]:
    module = ["-m", f"examples.integrations.{name}"]
    if name == "with_fsdp2":
        return [str(TORCHRUN), "--standalone", "--nproc-per-node", "4", *module]
    inner = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2", *module]
    return [sys.executable, "-m", "thinwire.cli", "run", "--region", "process", "--", *inner]


LONG = ("with_lightning", "with_trainer", "with_trl")  # their frameworks take seconds to import, and have tests of their own


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.slow if each in LONG else ()) for each in SCRIPTS])
def test_regions_end_with_the_same_bits(name: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("THINWIRE_")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(command(name), cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    told = re.findall(r"weights (\w{16})", ended.stdout)  # two processes may share a line
    assert len(told) == (4 if name == "with_fsdp2" else 2)
    assert len(set(told)) == 1
