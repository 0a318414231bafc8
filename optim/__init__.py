"""The optimizers and what they are made of."""

from thinwire.optim.agree import ConfigError as ConfigError
from thinwire.optim.agree import DivergenceError as DivergenceError
from thinwire.optim.demo import DeMo as DeMo
from thinwire.optim.diloco import DiLoCo as DiLoCo
from thinwire.optim.ledger import RoundInfo as RoundInfo
from thinwire.optim.ledger import Stats as Stats
