import math

import torch

from examples.multiregion.model import CONTEXT, GPT, sha256


def test_the_model_has_the_size_of_the_published_comparison() -> None:
    assert sum(p.numel() for p in GPT().parameters()) == 1_334_080


def test_an_untrained_model_knows_nothing() -> None:
    torch.manual_seed(0)
    text = torch.randint(256, (2, CONTEXT + 1))
    assert abs(GPT(width=32, layers=1).loss(text).item() - math.log(256)) < 0.1


def test_no_position_sees_what_follows_it() -> None:
    torch.manual_seed(0)
    gpt = GPT(width=32, layers=2)
    text = torch.randint(256, (1, 16))
    changed = text.clone()
    changed[0, 10] ^= 1
    torch.testing.assert_close(gpt(text)[0, :10], gpt(changed)[0, :10])
    assert not torch.equal(gpt(text)[0, 10], gpt(changed)[0, 10])


def test_sha256_is_equal_for_equal_bits_only() -> None:
    one, two = GPT(width=32, layers=1), GPT(width=32, layers=1)
    two.load_state_dict(one.state_dict())
    assert sha256(one) == sha256(two)
    with torch.no_grad():
        two.norm.bias[0] = -0.0  # equal to 0.0, other bits
    assert sha256(one) != sha256(two)
