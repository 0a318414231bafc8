"""Weights from one to many: versioned, content-addressed, signed, in the smallest form, served by everybody who has them."""

from thinwire.comms.publish.manifest import Manifest as Manifest
from thinwire.comms.publish.manifest import RefusedManifest as RefusedManifest
from thinwire.comms.publish.publisher import Publisher as Publisher
from thinwire.comms.publish.subscriber import Subscriber as Subscriber
from thinwire.comms.publish.thread import PublisherThread as PublisherThread
from thinwire.comms.publish.thread import SubscriberThread as SubscriberThread
