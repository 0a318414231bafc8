"""What a wheel must do wherever it is installed: run by path with `python -I` and from another directory.

It prints one JSON object; the first thing that is wrong ends it with status 1 and a sentence. Training in `exact_run` uses numbers that
every torch computes alike: gradients are differences and learning rates powers of two, so that fused and unfused multiply-adds agree.
What comes out, and every codec's payload of it, is compared with golden.json; who changes it changes the wire format or its arithmetic,
and says why.
"""

# ruff: noqa: E402
import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

gc.freeze()  # torch's objects: a collection of all of them that falls into our import takes longer than it does
_began = time.process_time()
import thinwire

FIRST_S = time.process_time() - _began  # what it adds to torch, in this process

import numpy
import xxhash
from torch import Tensor, nn

from thinwire.comms import CODECS
from thinwire.kernels import dispatch, native
from thinwire.optim.fragment import Fragment

GOLDEN = Path(__file__).with_name("golden.json")
IMPORT_S = 0.15  # of processor time, over torch's own import
SHAPES = ((65, 130), (3, 5, 7), (70,), ())
STEPS = 10
MEMBERS = 3  # two would never take the direct way over gloo
METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "DiLoCo": lambda params, group: thinwire.DiLoCo(torch.optim.SGD(params, lr=0.25), sync_every=3, group=group),
    "DiLoCo dct-topk": lambda params, group: thinwire.DiLoCo(torch.optim.SGD(params, lr=0.25), sync_every=3, codec="dct-topk", group=group),
    "DeMo": lambda params, group: thinwire.DeMo(params, lr=2.0**-6, group=group),
    "DeMo dct-topk": lambda params, group: thinwire.DeMo(params, lr=2.0**-6, codec="dct-topk", group=group),
}
WAYS = {0: [], 1: ["avx2", "fma", "bmi1", "bmi2"], 2: ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]}  # by instruction set


def require(fine: bool, otherwise: str) -> None:
    """End the program with that sentence unless all is well."""
    if not fine:
        raise SystemExit(f"smoke: {otherwise}")


# -- what is installed -----------------------------------------------------------------------------------------------------------


def installed(wheel: str) -> None:
    """This is the wheel's package, in this environment."""
    place, here = Path(thinwire.__file__).resolve(), Path(sys.prefix).resolve()
    require(place.is_relative_to(here), f"thinwire was imported from {place}, expected it in {here}")
    require(thinwire.__version__ == version("thinwire") == wheel, f"thinwire calls itself {thinwire.__version__}, its wheel is {wheel}")


def import_s(known: list[float]) -> float:
    """The least of what `import thinwire` took in these processes and, while that is too much, in some new ones: machines are busy."""
    code = "import gc, time, torch; gc.freeze(); start = time.process_time(); import thinwire; print(time.process_time() - start)"
    known = list(known)
    while min(known) >= IMPORT_S and len(known) < 8:
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120, check=True)
        known.append(float(done.stdout))
    require(min(known) < IMPORT_S, f"import thinwire takes {min(known):.3f} s of processor time over torch, at most {IMPORT_S} are allowed")
    return min(known)


def instruction_sets() -> list[int]:
    """All that this processor has are in the library, and can be chosen."""
    require(native.available(), "the wheel's C++ library is not there or cannot be loaded: the log says why")
    cpuinfo = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    flags = set(next((line.split(":")[1] for line in cpuinfo.splitlines() if line.startswith("flags")), "").split())
    expected = [level for level in WAYS if set(WAYS[level]) <= flags and set(WAYS[min(level, 1)]) <= flags]
    chosen = sorted({native.set_isa(level) for level in WAYS})
    require(chosen == expected, f"the library runs on instruction sets {chosen}, this processor has {expected}")
    return chosen


# -- training --------------------------------------------------------------------------------------------------------------------


def numbers(n: int, seed: int) -> Tensor:
    """`(n,)` float32 of very different sizes within +-1, from integers and exact products alone."""
    i = torch.arange(n, dtype=torch.int64) + 7919 * seed
    mixed = (i * 2654435761 + (i * i) % 40503) % (1 << 24)
    sizes = torch.tensor([2.0 ** -(23 + shift) for shift in range(13)])
    return (mixed - (1 << 23)).to(torch.float32) * sizes[mixed % 13]


def tensors(seed: int) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.view(shape).clone() for part, shape in zip(numbers(sum(sizes), seed).split(sizes), SHAPES, strict=True)]


def loss(params: list[nn.Parameter], goal: list[Tensor]) -> Tensor:
    return torch.stack([(p - g).square().sum() for p, g in zip(params, goal, strict=True)]).sum() * 0.5


def exact_run(method: str, rank: int, group: Any) -> list[Tensor]:
    """The weights of one member after `STEPS` steps toward a goal that members see with noise of their own."""
    params = [nn.Parameter(tensor) for tensor in tensors(1)]
    goal = tensors(2)
    before = loss(params, goal).item()
    opt = METHODS[method](params, group)
    for step in range(STEPS):
        opt.zero_grad()
        noise = tensors(3 + MEMBERS * step + rank)
        loss(params, [g + n * 0.125 for g, n in zip(goal, noise, strict=True)]).backward()
        opt.step()
    opt.close()
    after = loss(params, goal).item()
    require(after < before, f"{method} does not learn: loss {before} before, {after} after {STEPS} steps")
    return [p.detach() for p in params]


def on_threads(work: Callable[[int, Any], Any]) -> list[Any]:
    """`work(rank, group)` on the members of a `LocalGroup`."""
    groups = thinwire.LocalGroup.world(MEMBERS, timeout_s=120.0)
    try:
        with ThreadPoolExecutor(MEMBERS) as pool:
            return [done.result() for done in [pool.submit(work, rank, group) for rank, group in enumerate(groups)]]
    finally:
        for group in groups:
            group.leave()


def digest(*some: Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in some))


def trained(method: str) -> dict[str, str]:
    """Digests of the weights, of a member that is alone and of those that are not."""
    alone = digest(*exact_run(method, 0, None))
    together = {digest(*weights) for weights in on_threads(lambda rank, group: exact_run(method, rank, group))}
    require(len(together) == 1, f"members of {method} end with different weights")
    require(together != {alone}, f"members of {method} end as one does that is alone: nothing was exchanged")
    return {f"{method}, alone": alone, f"{method}, together": together.pop()}


def payloads(weights: list[Tensor], levels: list[int]) -> dict[str, str]:
    """Digests of every codec's payload, computed by the library on every instruction set and by the stages: the same bits."""
    made = {}
    for name in sorted(CODECS):
        fragment = Fragment([tensor.shape for tensor in weights], name)
        plan = fragment.plan
        require(dispatch.runs_fused(plan.program, "cpu"), f"the codec {name} does not run in the C++ library")
        flat = torch.cat([tensor.reshape(-1) for tensor in weights])
        found = {"the stages": digest(plan.encode(plan.forward(fragment.matrix(flat))))}
        for level in levels:
            require(native.set_isa(level) == level, f"instruction set {level} cannot be chosen")
            assert plan.program is not None
            found[f"instruction set {level}"] = digest(native.encode(plan.program, weights, state=False).payload)
        require(len(set(found.values())) == 1, f"the payload of {name} depends on who computes it: {found}")
        made[f"payload of {name}"] = found["the stages"]
    return made


# -- resuming --------------------------------------------------------------------------------------------------------------------


def fresh(seed: int, group: Any) -> tuple[nn.Module, Any]:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 67), nn.Tanh(), nn.Linear(67, 2))
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return net, thinwire.DiLoCo(torch.optim.AdamW(net.parameters(), lr=1e-2), sync_every=3, group=group)


def learn(net: nn.Module, opt: Any, steps: range, rank: int) -> None:
    for step in steps:
        opt.zero_grad()
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1000 * rank + step))
        (net(x) - x[:, :2]).square().mean().backward()
        opt.step()


def whole(rank: int, group: Any, folder: Path, stop: int) -> str:
    """The weights after 8 steps in windows of 3; after `stop` of them everything is saved."""
    net, opt = fresh(0, group)
    learn(net, opt, range(stop), rank)
    torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, folder / f"{rank}.pt")
    learn(net, opt, range(stop, 8), rank)
    opt.close()
    return digest(*net.parameters())


def resumed(rank: int, group: Any, folder: Path, stop: int) -> str:
    """The weights of who goes on from what `whole` has saved, with a model and an optimizer that are new."""
    net, opt = fresh(9, group)
    saved = torch.load(folder / f"{rank}.pt", weights_only=True)
    net.load_state_dict(saved["model"])
    opt.load_state_dict(saved["optimizer"])
    learn(net, opt, range(stop, 8), rank)
    opt.close()
    return digest(*net.parameters())


def resumes(stop: int = 4) -> None:
    """A checkpoint in mid-window goes through torch.load(weights_only=True) and changes no bit of what follows."""
    with tempfile.TemporaryDirectory() as folder:
        first = on_threads(lambda rank, group: whole(rank, group, Path(folder), stop))
        again = on_threads(lambda rank, group: resumed(rank, group, Path(folder), stop))
    require(len(set(first)) == 1, "members of DiLoCo over AdamW end with different weights")
    require(first == again, "resuming from a checkpoint changes the weights")


# -- processes -------------------------------------------------------------------------------------------------------------------

RANKED = ("DiLoCo", "DeMo dct-topk")


def ranks() -> list[dict[str, Any]]:
    """What each rank says that ends well, in the environment that torchrun gives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(MEMBERS), "LOCAL_WORLD_SIZE": str(MEMBERS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", __file__, "--rank"],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(MEMBERS)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    statuses = [process.returncode for process in processes]
    require(statuses == [0] * MEMBERS, f"ranks over gloo ended with the statuses {statuses}")
    return [json.loads(text.splitlines()[-1]) for text in said]  # some gloo tell of connections there


def over_gloo(told: list[dict[str, Any]], expected: dict[str, str]) -> None:
    """Ranks end with the weights of threads."""
    for rank in told:
        for method, found in rank["digests"].items():
            require(found == expected[f"{method}, together"], f"ranks of {method} over gloo end unlike threads")


def rank_main() -> None:
    """What one rank does; the group comes from the environment."""
    rank = int(os.environ["RANK"])
    print(json.dumps({"import_s": FIRST_S, "digests": {method: digest(*exact_run(method, rank, None)) for method in RANKED}}))


# -- all of it -------------------------------------------------------------------------------------------------------------------


def digests(levels: list[int]) -> dict[str, str]:
    """What golden.json holds."""
    runs: dict[str, str] = {}
    for method in METHODS:
        runs |= trained(method)
    return runs | payloads(exact_run("DiLoCo", 0, None), levels)


def main() -> None:
    options = argparse.ArgumentParser(description="Whether the installed thinwire works with the torch that is here.")
    options.add_argument("--version", metavar="VERSION", help="what the wheel's name says")
    options.add_argument("--write-golden", action="store_true", help="rewrite golden.json from what the code does now")
    options.add_argument("--rank", action="store_true", help="be one rank of several (the environment says which)")
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.rank:
        rank_main()
        return
    began = time.monotonic()
    if given.version:
        installed(given.version)
    levels = instruction_sets()
    found = digests(levels)
    if given.write_golden:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        return
    golden = json.loads(GOLDEN.read_text())
    changed = [name for name in golden if golden[name] != found.get(name)]
    require(not changed and set(golden) == set(found), f"the bits differ from golden.json in: {', '.join(changed) or 'names'}")
    resumes()
    told_by_ranks = ranks()
    over_gloo(told_by_ranks, found)
    least = import_s([FIRST_S, *(rank["import_s"] for rank in told_by_ranks)])
    told = {"python": sys.version.split()[0], "torch": str(torch.__version__), "numpy": numpy.__version__, "import_s": least}
    print(json.dumps(told | {"instruction_sets": levels, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
