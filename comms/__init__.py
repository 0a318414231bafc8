"""Codecs, the wire format, and the groups that carry payloads."""

from thinwire.comms import stages as stages
from thinwire.comms.codec import CODECS as CODECS
from thinwire.comms.codec import Codec as Codec
from thinwire.comms.codec import Plan as Plan
from thinwire.comms.codec import Stage as Stage
from thinwire.comms.codec import chain as chain
from thinwire.comms.codec import register as register
from thinwire.comms.recipes import codec as codec
from thinwire.comms.stages.basis import DCT as DCT
from thinwire.comms.stages.pack import Pack as Pack
from thinwire.comms.stages.quantise import FP4 as FP4
from thinwire.comms.stages.quantise import FP8 as FP8
from thinwire.comms.stages.quantise import BFloat16 as BFloat16
from thinwire.comms.stages.quantise import Float16 as Float16
from thinwire.comms.stages.quantise import Float32 as Float32
from thinwire.comms.stages.quantise import Int2 as Int2
from thinwire.comms.stages.quantise import Int4 as Int4
from thinwire.comms.stages.quantise import Int8 as Int8
from thinwire.comms.stages.quantise import Sign as Sign
from thinwire.comms.stages.quantise import Vote as Vote
from thinwire.comms.stages.select import All as All
from thinwire.comms.stages.select import BlockMax as BlockMax
from thinwire.comms.stages.select import TopK as TopK
from thinwire.comms.wire import RoundKey as RoundKey
from thinwire.comms.wire import WireError as WireError
