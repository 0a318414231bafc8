"""With --write-matrix the run writes the README's table of what works together."""

import os

import pytest

from tests import worlds
from tests.compat import matrix

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # read when they are imported
worlds.preload(  # once, as each takes seconds
    "accelerate",
    "datasets",
    "examples.integrations.language",
    "lightning.pytorch.callbacks",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "transformers.trainer",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "tests.compat.regions",
)

_OUTCOMES = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help="write the README's table from what passes now")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    outcomes = item.config.stash[_OUTCOMES]
    if report.when == "call" or report.outcome != "passed":
        outcomes[item.nodeid] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-matrix", default=False):
        table = matrix.render(session.config.stash[_OUTCOMES])
        matrix.README.write_text(matrix.written(matrix.README.read_text(), table))
