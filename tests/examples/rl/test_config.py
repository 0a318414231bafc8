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
        ('run = "x"\n[train]\nkl = -1.0', "no reference"),
        ('run = "x"\n[reward]\nby = "judges"', "0 judges"),
        ('run = "x"\n[[reward.judges]]\nkind = "environment"', "1 judges"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "oracle"', "oracle"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "noisy"', "deviation"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "noisy"\ndeviation = -1.0', "0 or more"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "adversarial"\nloudness = 0.0', "more than 0"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "environment"\nstake = 0.0', "leave the judge out"),
        ('run = "x"\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "http"\nurl = "host"\nmodel = "m"', "give one like"),
        ('run = "x"\n[reward]\nby = "judges"\nrule = "mode"\n[[reward.judges]]\nkind = "environment"', "mode"),
        ('run = "x"\n[proposer]\nlowest = 4\nhighest = 4', "lowest < highest"),
        ('run = "x"\n[proposer]\nlowest = 2\nhighest = 4\ndiscount = 1.0', "between 0 and 1"),
        ('run = "x"\n[proposer]\nlowest = 2\nhighest = 4\nsolvers = 0', "at least 1"),
        (
            'run = "x"\n[proposer]\nlowest = 2\nhighest = 4\n[reward]\nby = "judges"\n[[reward.judges]]\nkind = "environment"',
            "leave one of them out",
        ),
        ('run = "x"\n[atropos]\nopen = true\nhost = "0.0.0.0"', "which others reach"),
        ('run = "x"\n[atropos]\nport = 70000', "65535"),
        ('run = "x"\n[atropos]\nmax_tokens = 1', "at least 2"),
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


@pytest.mark.parametrize("table", ["atropos", "reward"])
def test_a_token_in_place_of_its_name_is_refused_and_not_repeated(table: str) -> None:
    judge = {"kind": "http", "url": "http://127.0.0.1:1/v1", "model": "m", "token_env": "sk-secret"}
    changes = {"atropos.token_env": "sk-secret"} if table == "atropos" else {"reward.by": "judges", "reward.judges": [judge]}
    with pytest.raises(ConfigError, match="never give the token") as error:
        load(HERE / "tiny.toml", changes)
    assert "sk-secret" not in str(error.value)
