from pathlib import Path

import pytest

from benchmarks.lab.topology import SHIPPED, Region, Topology, TopologyError, Way

TWO = 'region = [{ name = "a", up_mbit = 5, down_mbit = 50 }, { name = "b" }]\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_what_is_shipped_can_be_read(name: str) -> None:
    assert len(Topology.read(name).regions) == 4


def test_home_is_what_the_name_says() -> None:
    home = Topology.read("home").asked()
    assert (home["up_mbit"], home["down_mbit"], home["rtt_ms"], home["loss"]) == (20, 100, 40, 0.001)


def test_a_pair_is_an_exception_from_the_way_in_both_directions(tmp_path: Path) -> None:
    text = f'rtt_ms = 40\nloss = 0.01\n{TWO}[[pair]]\nbetween = ["b", "a"]\nrtt_ms = 90\n'
    topology = Topology.read(written(tmp_path, text))
    assert topology.way_between(0, 1) == topology.way_between(1, 0) == Way(90, 0, 0.01)
    assert topology.way_between(0, 0) == Way(40, 0, 0.01)
    assert topology.asked()["rtt_ms"] == 90
    assert topology.lossy


def test_rates_that_are_left_out_have_no_limit(tmp_path: Path) -> None:
    topology = Topology.read(written(tmp_path, TWO))
    assert topology.regions == (Region("a", 5, 50), Region("b"))
    assert topology.asked()["up_mbit"] == 5
    assert Topology.uniform(2).asked()["up_mbit"] is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("region = [", "no TOML"),
        ("region = 3", "list of tables"),
        ("region = []", "0 regions"),
        ("rtt = 3\n" + TWO, "says rtt; known are"),
        ("rtt_ms = -1\n" + TWO, "rtt_ms is -1; give a number from 0"),
        ("rtt_ms = '3'\n" + TWO, "rtt_ms is '3'"),
        ("rtt_ms = true\n" + TWO, "rtt_ms is True"),
        ("loss = 0.9\n" + TWO, "loss is 0.9"),
        ("congestion = 'vegas'\n" + TWO, "cubic, bbr, reno"),
        ('region = [{ name = "a" }, { name = "a" }]', "a name of its own"),
        ('region = [{ up_mbit = 3 }]', "has no name"),
        ('region = [{ name = "a b" }]', "letters, digits"),
        ('region = [{ name = "a", up_mbit = 0 }]', "up_mbit of region 'a' is 0"),
        ('region = [{ name = "a", down_mbit = 1e9 }]', "down_mbit of region 'a'"),
        ('region = [{ name = "a", rate = 1 }]', "says rate"),
        (TWO + '[[pair]]\nbetween = ["a", "c"]', "name two of the regions a, b"),
        (TWO + '[[pair]]\nbetween = ["a", "a"]', "name two of the regions"),
        (TWO + '[[pair]]\nrtt_ms = 4', "name two of the regions"),
    ],
)  # fmt: skip
def test_a_topology_that_cannot_be_is_refused_with_file_and_cause(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TopologyError, match=r"own\.toml") as caught:
        Topology.read(path)
    assert named in str(caught.value)


def test_a_missing_topology_names_those_that_are_shipped() -> None:
    with pytest.raises(TopologyError, match="cloud, continents, home"):
        Topology.read("nowhere")
