"""The codecs that tests go over: every registered one, names with numbers, and chains that have no name."""

from thinwire.comms import CODECS, All, BlockMax, Codec, Int2, Int4, Int8, Pack, TopK, chain
from thinwire.comms.recipes import codec

MADE = {
    "int8-stochastic": chain(All(), Int8(stochastic=1), Pack()),
    "topk7-int2-stochastic": chain(TopK(7), Int2(stochastic=2**32 - 1), Pack()),
    "blockmax16-int4-stochastic": chain(BlockMax(16), Int4(stochastic=77), Pack()),
}
NUMBERED = [
    *("topk-int4", "topk1-fp32", "topk7-int2", "topk2048-sign", "topk4096-fp16", "topk64-bf16", "blockmax16-int8"),
    *("blockmax256-int4", "blockmax128-vote", "dct-blockmax128-vote", "dct32-topk16", "dct8-blockmax16-int2", "dct-topk-fp16"),
    *("topk64-fp4", "dct16-topk5-fp8", "blockmax32-fp8", "topk31-vote"),
]
NAMES = [*CODECS, *NUMBERED, *MADE]


def named(name: str) -> Codec:
    """A codec by a name of the library or of this file."""
    return MADE[name] if name in MADE else codec(name)
