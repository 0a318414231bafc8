"""The file of a run: what it says is typed, what it does not say has a default, and what is wrong is one sentence."""

from pathlib import Path

import pytest

from examples.rl.config import Config, ConfigError, load

HERE = Path("examples/rl")


@pytest.mark.parametrize("path", sorted(HERE.glob("*.toml")), ids=str)
def test_every_file_that_comes_with_the_example_is_a_run(path: Path) -> None:
    assert load(path).run


def test_changes_are_laid_over_the_file() -> None:
    config = load(HERE / "tiny.toml", {"train.updates": 3, "network.listen": ["/ip4/1.2.3.4/tcp/5"]})
    assert (config.train.updates, config.train.groups, config.network.listen) == (3, 16, ("/ip4/1.2.3.4/tcp/5",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run = ", "no TOML"),
        ("", "run"),
        ('run = ""', "give a name"),
        ('run = "x"\n[train]\nupdate = 3', "update"),
        ('run = "x"\n[train]\nupdates = "3"', "updates"),
        ('run = "x"\n[train]\nupdates = 0', "at least 1"),
        ('run = "x"\n[train]\ncompletions = 1', "at least 2"),
        ('run = "x"\n[train]\nmode = "push"', "push"),
        ('run = "x"\n[train]\nmode = "pull"', "staleness is always 0"),
        ('run = "x"\n[train]\ngroups = 4\nown_groups = 3\nforeign_groups = 2', "own_groups"),
        ('run = "x"\n[train]\nlr = nan', "above 0"),
        ('run = "x"\n[warmup]\nright = 1.5', "from 0 to 1"),
        ('run = "x"\n[network]\ntrainers = ["abc"]', "64 hexadecimal digits"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        load(file)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_keys_are_bytes() -> None:
    key = bytes(range(32))
    assert load(HERE / "tiny.toml", {"network.trainers": [key.hex()]}).trainers == (key,)
    assert Config(run="x").verifiers == ()
