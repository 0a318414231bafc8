"""The experiment: thresholds from some honest rollouts, verdicts on others and on every lie about them, and what both sides pay."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from pydoc_data.topics import topics

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor

from benchmarks.suite.record import FAILED, OK, Made, Record, key_of
from benchmarks.suite.runs import Due
from benchmarks.verify.interval import interval
from benchmarks.verify.lies import in_float32, invented, other_weights, resampled, swapped
from benchmarks.verify.model import Decoder
from benchmarks.verify.rollouts import Rollouts, batches, prefill, prompts
from thinwire.comms.verify.activations import PROOF_NBYTES, TOP, Measurement, cut, measure, prove
from thinwire.comms.verify.field import PRIME
from thinwire.comms.verify.thresholds import NAMES, Thresholds, calibrate, judge

ACCEPTED, REFUSED, COST = 0.999, 0.99, 0.2  # the bars
CASES = {
    "honest": "accept",
    "honest float32": "accept",  # the worker computes in float32, the verifier in bfloat16
    "noise 0.001": "",  # about a step of training: not to be told apart
    "noise 0.01": "refuse",
    "int8": "",  # about half of that
    "int4": "refuse",
    "prompt token": "refuse",
    "completion token": "refuse",
    "likely token": "",  # one that the model might have said
    "another rollout": "refuse",
    "mean": "refuse",
    "random": "refuse",
    "zero": "refuse",
}
ZERO = PRIME.to_bytes(2, "big") + bytes(2 * TOP)


@dataclass(frozen=True)
class Setting:
    """How much: rollouts to learn thresholds from and to judge, prompts between them that are left out, tokens of each, and how many are
    sampled together for the one and for the other."""

    calibration: int
    rollouts: int
    skipped: int
    prompt: int
    completion: int
    batch: int
    judged_batch: int
    seed: int


@dataclass(frozen=True)
class Judged:
    """One rollout: its chunks measured, and which of them can differ from honest ones."""

    chunks: Sequence[Measurement]
    touched: Sequence[int]


class Bench:
    """Measures cases; what several of them need is made once."""

    def __init__(self, setting: Setting, load: Callable[[], Decoder], cache: Path) -> None:
        self._setting, self._load, self._cache = setting, load, cache

    def due(self, cases: Sequence[str]) -> Iterator[Due]:
        """One run a case."""
        s = self._setting
        for case in cases:
            plain = {"seed": s.seed, "skipped": 0, "judged_batch": s.batch}  # the key of a plain run says nothing of these
            amounts = {name: value for name, value in asdict(s).items() if plain.get(name) != value}
            key = key_of(case, seed=s.seed, **amounts)
            template = Record(suite="verify", key=key, status=FAILED, made=Made.now(), method=case, label=case, seed=s.seed)
            yield Due(template, partial(self.measure, case, template))

    def measure(self, case: str, template: Record) -> Record:
        """Verdicts on every chunk alone, and on every rollout."""
        judged = self._judged(case)
        chunks = [judge([rollout.chunks[i]], self.thresholds).accepted for rollout in judged for i in rollout.touched]
        rollouts = [judge(rollout.chunks, self.thresholds).accepted for rollout in judged]
        numbers = dict[str, float | None]()
        for kind, verdicts in (("chunks", chunks), ("rollouts", rollouts)):
            refused = verdicts.count(False)
            least, most = interval(refused, len(verdicts))
            numbers |= {kind: float(len(verdicts)), f"{kind}_refused": float(refused)}
            numbers |= {f"{kind}_refused_least": least, f"{kind}_refused_most": most}
        touched = [rollout.chunks[i] for rollout in judged for i in rollout.touched]
        for name in NAMES:
            numbers[name] = sum(getattr(each, name) for each in touched) / len(touched)
        match CASES[case]:
            case "accept":
                share = chunks.count(True) / len(chunks), rollouts.count(True) / len(rollouts)
                checks = {
                    f"at least {ACCEPTED:.1%} of chunks accepted": share[0] >= ACCEPTED,
                    f"at least {ACCEPTED:.1%} of rollouts accepted": share[1] >= ACCEPTED,
                }
                if case == "honest":
                    cost = self._cost()
                    numbers |= cost
                    checks[f"verification at most {COST} of generation"] = cost["cost_ratio"] <= COST
            case "refuse":
                checks = {f"at least {REFUSED:.0%} of rollouts refused": rollouts.count(False) / len(rollouts) >= REFUSED}
            case _:
                checks = {}
        missed = [name for name, held in checks.items() if not held]
        return replace(
            template,
            status=FAILED if missed else OK,
            reason=f"not {missed[0]}" if missed else None,
            numbers=numbers,
            checks=checks,
            settings={"thresholds": msgspec.json.encode(self.thresholds.to_dict()).decode()},
        )

    @cached_property
    def model(self) -> Decoder:
        """Loaded when the first rollout is due."""
        return self._load()

    @cached_property
    def _starts(self) -> Tensor:
        s = self._setting
        ids = self.model.encode("\n".join(topics[name] for name in sorted(topics)))
        return prompts(ids, s.calibration + s.skipped + s.rollouts, s.prompt, s.seed)

    def _sampled(self, first: int, count: int, batch: int) -> list[Rollouts]:
        s = self._setting
        name = f"{type(self.model).__name__}-{s.prompt}-{s.completion}-{batch}-{s.seed}"
        starts = self._starts[first : first + count]
        return list(batches(self.model, starts, s.completion, batch, s.seed, self._cache / name, first // batch))

    @cached_property
    def _known(self) -> list[Rollouts]:
        return self._sampled(0, self._setting.calibration, self._setting.batch)

    @cached_property
    def _judging(self) -> list[Rollouts]:
        s = self._setting
        return self._sampled(s.calibration + s.skipped, s.rollouts, s.judged_batch)

    @cached_property
    def thresholds(self) -> Thresholds:
        """Learnt from rollouts that are not judged."""
        seen = [self._states(each) for each in self._known]
        return calibrate([rollout.chunks for each, own in zip(self._known, seen, strict=True) for rollout in measured(each.hidden, own)])

    @cached_property
    def _own(self) -> list[Tensor]:
        return [self._states(each) for each in self._judging]

    def _states(self, rollouts: Rollouts, tokens: Tensor | None = None) -> Tensor:
        return prefill(self.model, rollouts.tokens if tokens is None else tokens, rollouts.prompt)[0]

    def _judged(self, case: str) -> list[Judged]:
        """The rollouts as a worker of that kind proves them."""
        seed, found = self._setting.seed, list[Judged]()
        if case.startswith(("int", "noise", "honest float32")):
            own = self._own
            with in_float32(self.model) if case == "honest float32" else other_weights(self.model, case, seed):
                made = [self._states(each) for each in self._judging]
            return [one for hidden, states in zip(made, own, strict=True) for one in measured(hidden, states)]
        if case in ("another rollout", "mean", "random"):
            hidden = invented(case, torch.cat([each.hidden for each in self._judging]), seed)
            return measured(hidden, torch.cat(self._own))
        if case == "zero":
            return [zeroed(states) for own in self._own for states in own]
        for number, each in enumerate(self._judging):
            tokens, at = each.tokens, torch.zeros(len(each.tokens), dtype=torch.int64)
            end = tokens.shape[1]
            match case:
                case "prompt token":
                    tokens, at = swapped(tokens, 0, each.prompt, self.model.vocabulary, seed + number)
                case "completion token":
                    tokens, at = swapped(tokens, each.prompt, end, self.model.vocabulary, seed + number)
                case "likely token":
                    tokens, at = resampled(self.model, tokens, each.hidden, each.prompt, seed + number)
            own_states = self._own[number] if case == "honest" else self._states(each, tokens)
            found += measured(each.hidden, own_states, (at - each.prompt).clamp(min=0).tolist())
        return found

    def _cost(self) -> dict[str, float]:
        """Processor seconds of both sides, a token of the completion: sampled and proved, against prefilled and compared.

        Sampling was timed when it was done, which may be another day; the rest is timed here, over the rollouts of the calibration.
        """
        tokens = sum(each.hidden.shape[0] * each.hidden.shape[1] for each in self._known)
        sampled = sum(each.cpu_s for each in self._known)
        filled, began = 0.0, time.process_time()
        proofs = [[prove(hidden) for hidden in each.hidden] for each in self._known]
        proved = time.process_time() - began
        for each, said in zip(self._known, proofs, strict=True):
            own, took = prefill(self.model, each.tokens, each.prompt)
            began = time.process_time()
            for proof, states in zip(said, own, strict=True):
                judge(measure(proof, pieces(states)), self.thresholds)
            filled += took + time.process_time() - began
        chunks = sum(map(len, (proof for said in proofs for proof in said)))
        return {
            "sample_tokens_per_cpu_s": tokens / sampled,
            "verify_tokens_per_cpu_s": tokens / filled,
            "cost_ratio": filled / sampled,
            "prove_ms": 1e3 * proved / chunks,
            "proof_nbytes_per_token": PROOF_NBYTES * chunks / tokens,
        }


def pieces(states: Tensor) -> list[Tensor]:
    """The chunks of one rollout's states."""
    return [states[rows] for rows in cut(*states.shape)]


def measured(made: Tensor, own: Tensor, first: Sequence[int] | None = None) -> list[Judged]:
    """Proofs of `made (rollouts, tokens, width)` measured with the verifier's `own`; `first` is the first token that can differ."""
    judged = []
    for i, (hidden, states) in enumerate(zip(made, own, strict=True)):
        starts = [rows.stop for rows in cut(*states.shape)]
        touched = [k for k, stop in enumerate(starts) if stop > (first[i] if first else 0)]
        judged.append(Judged(measure(prove(hidden), pieces(states)), touched))
    return judged


def zeroed(states: Tensor) -> Judged:
    """A sketch of zeros behind the right modulus: 258 zero bytes are no proof at all."""
    chunks = pieces(states)
    return Judged(measure([ZERO] * len(chunks), chunks), range(len(chunks)))
