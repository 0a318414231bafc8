"""The codecs by name: `none bf16 fp16 int8 int4 int2 fp8 fp4 sign`, and `[dct-]topk[K]` and `[dct-]blockmax[BLOCK]`, then `-VALUES`."""

import re

from thinwire.comms.codec import CODECS, Codec, Stage, chain, register
from thinwire.comms.stages.basis import DCT
from thinwire.comms.stages.pack import Pack
from thinwire.comms.stages.quantise import FP4, FP8, BFloat16, Float16, Float32, Int2, Int4, Int8, Sign, Vote
from thinwire.comms.stages.select import All, BlockMax, TopK

VALUES: dict[str, Stage] = {
    "fp32": Float32(),
    "bf16": BFloat16(),
    "fp16": Float16(),
    "int8": Int8(),
    "int4": Int4(),
    "int2": Int2(),
    "fp8": FP8(),
    "fp4": FP4(),
    "sign": Sign(),
    "vote": Vote(),
}

register("none", chain(All(None), Float32(), Pack()))
register("bf16", chain(All(None), BFloat16(), Pack()))
register("fp16", chain(All(None), Float16(), Pack()))
for _name in ("int8", "int4", "int2", "fp8", "fp4", "sign"):
    register(_name, chain(All(), VALUES[_name], Pack()))
register("topk", chain(TopK(32), Int8(), Pack()))
register("dct-topk", chain(DCT(), TopK(32), Int8(), Pack()))
register("blockmax", chain(BlockMax(64), Sign(), Pack()))
register("dct-blockmax", chain(DCT(), BlockMax(64), Sign(), Pack()))

_NAME = re.compile(r"(?P<dct>dct(?P<side>\d+)?-)?(?P<select>topk|blockmax)(?P<k>\d+)?(-(?P<values>[a-z0-9]+))?")


def codec(name: str | Codec) -> Codec:
    """A codec from its name, its name with numbers, or itself.

    Raises `ValueError` with the known names when there is none of this name.

    >>> codec("dct-topk64-int4")
    chain(DCT(side=64), TopK(k=64, chunk=4096), Int4(), Pack())
    """
    if isinstance(name, Codec):
        return name
    if not isinstance(name, str):
        raise TypeError(f"codec is {name!r}; give a name such as 'blockmax', or a chain of stages such as chain(TopK(32), Int8(), Pack())")
    if name in CODECS:
        return CODECS[name]
    match = _NAME.fullmatch(name)
    default = "int8" if match and match["select"] == "topk" else "sign"
    if match is None or (match["values"] or default) not in VALUES:
        raise ValueError(
            f"no codec is called {name!r}; known are {', '.join(sorted(CODECS))}, "
            f"and [dct-]topk[K][-VALUES] and [dct-]blockmax[BLOCK][-VALUES] with VALUES one of {', '.join(VALUES)}"
        )
    basis = [DCT(int(match["side"] or 64))] if match["dct"] else []
    chunk = basis[0].side ** 2 if basis else 4096
    k = int(match["k"] or (32 if match["select"] == "topk" else 64))
    select = TopK(k, chunk) if match["select"] == "topk" else BlockMax(k, chunk)
    return chain(*basis, select, VALUES[match["values"] or default], Pack())
