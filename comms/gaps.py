"""Ascending places among many, as the gaps between them: near the entropy of random places, and never far above a byte each.

    count 4, shift 1, length 4 of the gaps before deflation, gaps, rest          gaps and rest are sections (comms/sections.py)

A gap is how many others precede a place since the last one. `gap >> shift` is written as bytes, each 255 meaning "255 and more to
come"; the low `shift` bits follow as `rest`, packed, least significant first. Integers are little-endian.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from thinwire.comms.sections import Reader, section
from thinwire.comms.wire import WireError

_ESCAPE = 255
_HEAD = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")


def write(places: NDArray[np.intp], numel: int) -> bytes:
    """`places`, ascending and below `numel`."""
    gaps = np.diff(places, prepend=-1) - 1
    shift = max(0, int(numel // max(1, len(places))).bit_length() - 6)  # quotients of about 32: a byte holds nearly all of them
    quotients = gaps >> shift
    ends = np.cumsum(quotients // _ESCAPE + 1)
    coded = np.full(ends[-1] if len(ends) else 0, _ESCAPE, np.uint8)
    coded[ends - 1] = quotients % _ESCAPE
    bits = (gaps[:, None] >> np.arange(shift) & 1).astype(np.uint8)
    rest = np.packbits(bits, bitorder="little")
    return _HEAD.pack(len(places), shift) + _LENGTH.pack(len(coded)) + section(coded) + section(rest)


def read(reader: Reader, numel: int) -> NDArray[np.intp]:
    """The places that were written; allocates a few bytes for each of `numel` at most. Raises `WireError` for anything else."""
    count, shift = _HEAD.unpack(reader.take(_HEAD.size))
    (nbytes,) = _LENGTH.unpack(reader.take(_LENGTH.size))
    if count > numel or (shift and count << shift > numel) or not count <= nbytes <= count + numel // _ESCAPE:
        raise WireError(f"{count} places among {numel} in {nbytes} bytes of gaps")
    coded = np.frombuffer(reader.section(nbytes), np.uint8)
    ends = np.flatnonzero(coded != _ESCAPE)
    if len(ends) != count or (nbytes and ends[-1] != nbytes - 1):
        raise WireError(f"gaps of {len(ends)} places, expected {count}")
    quotients = coded[ends] + _ESCAPE * (np.diff(ends, prepend=-1) - 1)
    rest = np.frombuffer(reader.section(-(-count * shift // 8)), np.uint8)
    bits = np.unpackbits(rest, count=count * shift, bitorder="little").reshape(count, shift)
    gaps = (quotients << shift) + (bits.astype(np.int64) << np.arange(shift)).sum(1)
    places: NDArray[np.intp] = np.cumsum(gaps + 1) - 1
    if count and places[-1] >= numel:
        raise WireError(f"a place at {places[-1]} among {numel}")
    return places
