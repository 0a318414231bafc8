"""Every method under one interface: `build` makes one by name, `absent` says why one cannot run here."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.kernels import demo as demo_pieces
from benchmarks.training.methods.demo import DeMo
from benchmarks.training.methods.method import Alone, Method
from benchmarks.training.methods.ours import Thinwire
from benchmarks.training.methods.peers import DeMoReference, Torchft
from benchmarks.training.methods.textbook import Textbook
from benchmarks.training.methods.torch_own import DDP, PostLocalSGD, PowerSGD
from benchmarks.training.setting import Setting
from examples.multiregion.model import GPT

CLASSES: dict[str, Callable[..., Method]] = {
    "alone": Alone,
    "ddp": DDP,
    "powersgd": PowerSGD,
    "post-local-sgd": PostLocalSGD,
    "textbook": Textbook,
    "torchft": Torchft,
    "demo-textbook": DeMo,
    "demo-reference": DeMoReference,
}


def build(setting: Setting, gpt: GPT, group: Any = None) -> Method:
    """The method of a setting around a model; unknown options are TypeErrors. `group` is for thinwire's: replicas in one process."""
    if setting.method in CLASSES:
        return CLASSES[setting.method](gpt, **setting.options)
    return Thinwire(gpt, setting.method, setting.options, group)


def absent(method: str) -> str | None:
    """What is missing for a method and how to get it, in a sentence; None when it can run."""
    if method == "torchft" and find_spec("torchft") is None:
        return "no module torchft; pip install -c constraints.txt 'thinwire[compat]', or pip install torchft==0.2.0"
    if method == "demo-reference" and demo_pieces.authors() is None:
        return "no demo.py on PYTHONPATH, or no einops; git clone https://github.com/bloc97/DeMo onto PYTHONPATH and pip install einops"
    return None
