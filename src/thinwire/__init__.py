"""thinwire: train one PyTorch model from places that are far apart."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from thinwire.comms import chain as chain
from thinwire.comms.local import LocalGroup as LocalGroup
from thinwire.comms.torch_group import TorchGroup as TorchGroup
from thinwire.optim import ConfigError as ConfigError
from thinwire.optim import DeMo as DeMo
from thinwire.optim import DiLoCo as DiLoCo
from thinwire.optim import DivergenceError as DivergenceError
from thinwire.optim import RoundInfo as RoundInfo

if TYPE_CHECKING:
    from thinwire.comms.swarm.group import SwarmGroup as SwarmGroup

try:
    __version__ = _version("thinwire")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "SwarmGroup":  # needs the extra [swarm], which takes a while to import
        try:
            from thinwire.comms.swarm.group import SwarmGroup
        except ModuleNotFoundError as error:
            raise ImportError(f"thinwire.SwarmGroup needs the module {error.name!r}: pip install 'thinwire[swarm]'") from error
        return SwarmGroup
    raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
