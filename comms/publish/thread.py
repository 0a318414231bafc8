"""The way in for training loops: the same publisher and subscriber, called from any thread while a `LoopThread` runs them."""

from concurrent.futures import Future

from torch import Tensor

from thinwire.comms.publish.manifest import Extra, Manifest
from thinwire.comms.publish.publisher import Publisher
from thinwire.comms.publish.subscriber import Subscriber
from thinwire.comms.publish.weights import NamedTensors, snapshot
from thinwire.comms.swarm.loop import LoopThread


class PublisherThread:
    """A publisher whose transport runs in `loop`; started here, ended by `close`."""

    def __init__(self, publisher: Publisher, loop: LoopThread) -> None:
        self._publisher, self._loop = publisher, loop
        loop.submit(publisher.start()).result()

    def publish(self, named_tensors: NamedTensors, *, extra: Extra | None = None) -> "Future[Manifest]":
        """Copy the weights now; code, sign and announce them in the background. The future's result is the manifest, or what went wrong."""
        return self._loop.submit(self._publisher.publish(snapshot(named_tensors, exact=self._publisher.lossy), extra=extra))

    def weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """What everybody holds who has the newest version."""
        return self._publisher.weights()

    def close(self) -> None:
        """Publish and serve no more."""
        self._loop.submit(self._publisher.close()).result()


class SubscriberThread:
    """A subscriber whose transport runs in `loop`; started here, ended by `close`."""

    def __init__(self, subscriber: Subscriber, loop: LoopThread, *, follow: bool = True) -> None:
        self._subscriber, self._loop = subscriber, loop
        loop.submit(subscriber.start(follow=follow)).result()

    @property
    def version(self) -> int:
        """That is held; 0 before the first."""
        return self._subscriber.version

    @property
    def manifest(self) -> Manifest | None:
        """Of the version that is held."""
        return self._subscriber.manifest

    def weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """The version that is held and its tensors; never waits."""
        return self._subscriber.weights()

    def update(self, timeout_s: float | None = None) -> int:
        """Take the newest version now; returns what is then held. Raises `TimeoutError`."""
        return self._loop.submit(self._subscriber.update()).result(timeout_s)

    def wait_for(self, version: int, timeout_s: float | None = None) -> int:
        """Wait until this or a later version is held. Raises `TimeoutError`."""
        waiting = self._loop.submit(self._subscriber.wait_for(version))
        try:
            return waiting.result(timeout_s)
        finally:
            waiting.cancel()

    def close(self) -> None:
        """Follow and serve no more."""
        self._loop.submit(self._subscriber.close()).result()
