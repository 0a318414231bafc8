"""Proofs of who computed what: activations, randomness that came later, and one verdict a rollout."""

from thinwire.comms.verify.activations import measure as measure
from thinwire.comms.verify.activations import prove as prove
from thinwire.comms.verify.beacon import Beacon as Beacon
from thinwire.comms.verify.beacon import HashChain as HashChain
from thinwire.comms.verify.beacon import HashChainBeacon as HashChainBeacon
from thinwire.comms.verify.challenge import Challenge as Challenge
from thinwire.comms.verify.challenge import Rollout as Rollout
from thinwire.comms.verify.challenge import commitment as commitment
from thinwire.comms.verify.session import Committed as Committed
from thinwire.comms.verify.session import Verifier as Verifier
from thinwire.comms.verify.thresholds import Thresholds as Thresholds
from thinwire.comms.verify.thresholds import calibrate as calibrate
from thinwire.comms.verify.thresholds import check as check
