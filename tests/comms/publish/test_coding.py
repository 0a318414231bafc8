"""Which form a version takes: the one that was measured to be smallest."""

import pytest
import torch

from tests.comms.publish.scene import model, moved
from thinwire.comms import patch
from thinwire.comms.publish import coding, delta
from thinwire.comms.publish.weights import snapshot


@pytest.mark.parametrize("by", [0.0, 1e-6, 1e-4, 3e-3, 1.0])
@pytest.mark.parametrize("lossy", [False, True])
def test_the_smallest_form_is_chosen(by: float, lossy: bool) -> None:
    old = snapshot(model()).flat
    new = snapshot(moved(model(), by), exact=lossy)
    sizes = {"full": len(patch.encode(None, new.flat)), "patch": len(patch.encode(old, new.flat))}
    if new.exact is not None:
        coded_delta = delta.encode(old, new.exact)
        assert coded_delta is not None
        sizes["delta"] = len(coded_delta[0])
    coded = coding.choose(old, new, patch_ratio=1.0)
    assert len(coded.payload) == min(sizes.values()) == sizes[coded.codec]
    assert torch.equal(coding.apply(coded.codec, old, coded.payload, len(old)).view(torch.int16), coded.flat.view(torch.int16))
    assert coding.choose(None, new, patch_ratio=1.0).codec == "full"
    assert coding.choose(old, new, patch_ratio=0.0).codec == "full"
    assert len(coded.payload) <= coding.limit_nbytes(len(old))


def test_random_large_steps_go_as_deltas_only_where_that_is_allowed() -> None:
    old = snapshot(model()).flat
    assert coding.choose(old, snapshot(moved(model(), 3e-3), exact=True), patch_ratio=0.6).codec == "delta"
    assert coding.choose(old, snapshot(moved(model(), 3e-3)), patch_ratio=0.6).codec != "delta"
    broken = model()
    broken["up"][0, 0] = float("nan")
    assert coding.choose(old, snapshot(broken, exact=True), patch_ratio=0.6).codec == "patch"  # NaN is no step
