"""The example as a user starts it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "multiregion" / "train.py"
SMALL = ["--warm-steps", "2", "--steps", "4", "--plain", "--batch", "1"]


def torchrun(*words: str, workers: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), str(SCRIPT)]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text").write_bytes(b"the quick brown fox jumps over the lazy dog. " * 500)
    return str(tmp_path / "text")


@pytest.mark.slow
@pytest.mark.parametrize("method", [["--method", "diloco", "--sync-every", "2"], ["--method", "demo"]])
def test_both_methods_end_with_identical_replicas_a_sentence_and_a_picture(method: list[str], text: str, tmp_path: Path) -> None:
    done = torchrun(*SMALL, *method, "--data", text, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"each region sent .* instead of .* all 2 replicas hold the same bits \(sha256 [0-9a-f]{16}\)", done.stdout)
    assert (tmp_path / "out" / "report.png").exists()


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_hash_of_an_uninterrupted_one(text: str, tmp_path: Path) -> None:
    words = [*SMALL, "--sync-every", "2", "--no-baseline", "--data", text, "--out", str(tmp_path / "out")]
    saved = tmp_path / "saved"
    whole = torchrun(*words, "--steps", "5")
    torchrun(*words, "--steps", "3", "--save", str(saved), "--save-every", "2")
    (saved / "region1-step3.pt").unlink()  # a crash came between the two regions' saves
    resumed = torchrun(*words, "--steps", "5", "--resume", str(saved))
    hashes = [re.findall(r"sha256 ([0-9a-f]+)", done.stdout) for done in (whole, resumed)]
    assert hashes[0] == hashes[1] != []


def test_without_torchrun_it_says_how_to_start() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False, env={"PATH": ""})
    assert done.returncode == 1
    assert "start with: torchrun" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "demo", "--sync-every", "3"], "--sync-every 3 is for --method diloco"),
        (["--method", "ddp", "--codec", "int8"], "--codec int8 is for"),
        (["--codec", "nonsense"], "nonsense"),
        (["--sync-every", "0"], "sync_every is 0"),
        (["--steps", "0"], "--steps"),
        (["--swarm", "--method", "ddp"], "--swarm is for"),
        (["--swarm", "nonsense"], "this is no invitation"),
    ],
)
def test_options_that_cannot_work_are_one_sentence_before_any_training(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_resuming_from_nothing_is_one_sentence(text: str, tmp_path: Path) -> None:
    done = torchrun(*SMALL, "--data", text, "--out", str(tmp_path / "out"), "--resume", str(tmp_path / "nowhere"))
    assert "holds no step that all 2 regions have saved" in done.stderr


@pytest.mark.slow
def test_a_region_joins_a_swarm_with_the_pasted_string_and_both_leave_in_order(text: str, tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--batch", "1", "--sync-every", "2", "--data", text]
    first = subprocess.Popen(
        [*words, "--out", str(tmp_path / "a"), "--steps", "1000000", "--swarm"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert first.stdout is not None
        invite = first.stdout.readline().split()[-1]
        assert invite.startswith("tw1")
        done = subprocess.run(
            [*words, "--out", str(tmp_path / "b"), "--steps", "6", "--swarm", invite],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "2 members" in done.stdout
        assert "left after 6 steps" in done.stdout
        first.send_signal(signal.SIGINT)
        told, _ = first.communicate(timeout=60)
        assert first.returncode == 0
        assert "left after" in told.splitlines()[-1]
    finally:
        first.kill()
        first.communicate()
