from pathlib import Path

from examples.multiregion.region import Ended
from examples.multiregion.report import outcome, picture, sentence


def ended(loss: float, sent: int, digest: str) -> Ended:
    return Ended(loss, sent, digest, [(10, sent // 2, loss + 1), (20, sent, loss)])


def test_an_outcome_is_the_mean_of_its_regions() -> None:
    found = outcome("x", [ended(2.0, 100, "a"), ended(3.0, 300, "a")])
    assert found.loss == 2.5
    assert found.curve == [(100.0, 3.5), (200.0, 2.5)]
    assert found.sent == 300  # the one that sent most


def test_the_sentence_says_bytes_losses_and_hash() -> None:
    dense = outcome("dense", [ended(1.9, 10**9, "d")] * 2)
    thin = outcome("thinwire", [ended(2.0, 10**6, "abc")] * 2)
    said = sentence(thin, dense)
    assert "each region sent 1.00 MB instead of 1000 MB, 1000 times less;" in said
    assert "validation loss 2.000, dense 1.900" in said
    assert "all 2 replicas hold the same bits (sha256 abc)" in said


def test_the_sentence_tells_what_the_operating_system_counted_per_region() -> None:
    dense = outcome("dense", [ended(1.9, 10**9, "d")] * 2, counted=2_008_000_000)
    thin = outcome("thinwire", [ended(2.0, 10**6, "abc")] * 2, counted=2_200_000)
    assert "(the operating system counted 1.10 MB and 1004 MB on the loopback)" in sentence(thin, dense)


def test_replicas_that_differ_are_said_to() -> None:
    thin = outcome("thinwire", [ended(2.0, 1, "abc"), ended(2.0, 1, "abd")])
    assert not thin.identical
    assert "REPLICAS DIFFER" in sentence(thin, None)


def test_the_picture_is_written_where_asked(tmp_path: Path) -> None:
    runs = [outcome("dense", [ended(1.9, 10**9, "d")]), outcome("thinwire", [ended(2.0, 10**6, "d")])]
    picture(tmp_path / "deep" / "report.png", runs)
    assert (tmp_path / "deep" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_lone_region_that_sent_nothing_still_gets_a_picture(tmp_path: Path) -> None:
    picture(tmp_path / "report.png", [outcome("alone", [ended(2.0, 0, "d")])])
    assert (tmp_path / "report.png").exists()
