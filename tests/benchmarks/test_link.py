"""Links by options: the same words for every suite."""

import pytest

from benchmarks.collectives.__main__ import Options as Collectives
from benchmarks.lab.topology import TopologyError
from benchmarks.scaling.__main__ import Options as Scaling
from benchmarks.suite.link import LinkOptions
from benchmarks.training.options import Options as Training


def test_a_link_is_read_from_the_command_line() -> None:
    topology = LinkOptions(link="20/100:40", loss=0.001, congestion="bbr").regions(3)
    assert topology.asked() == {
        "topology": "100/20 Mbit/s, 40 ms, 0.1 % loss, bbr",
        "up_mbit": 20, "down_mbit": 100, "rtt_ms": 40, "jitter_ms": 0, "loss": 0.001, "congestion": "bbr",
    }  # fmt: skip
    assert LinkOptions(link="20:80").regions(2).asked()["up_mbit"] == 20
    assert len(LinkOptions(topology="home").regions(4).regions) == 4


def test_links_are_shaped_when_anything_is_asked_of_them() -> None:
    assert not LinkOptions().regions(2).shaped
    for options in (LinkOptions(link="20:0"), LinkOptions(loss=0.1), LinkOptions(topology="home")):
        assert options.regions(4).shaped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LinkOptions(link="fast"), "give Mbit/s and ms as in 20:80"),
        (LinkOptions(link="100"), "give Mbit/s and ms as in 20:80"),
        (LinkOptions(link="nan:20"), "give a number from 0.01"),
        (LinkOptions(topology="home", link="20:80"), "leave out --link"),
        (LinkOptions(topology="home"), "'home' has 4 regions, not 2; give --members 4"),
        (LinkOptions(topology="nowhere"), "cannot read topology 'nowhere'"),
    ],
)
def test_a_link_that_cannot_be_is_refused_with_the_remedy(options: LinkOptions, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        options.regions(2)


def test_the_remedy_is_the_option_of_the_suite() -> None:
    for suite, remedy in ((Collectives, "--members 4"), (Training, "--workers 4"), (Scaling, "--peers 4")):
        with pytest.raises(TopologyError, match=f"give {remedy}$"):
            suite(topology="home").regions(3)
