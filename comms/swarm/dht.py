"""The notice board in a Kademlia DHT: hivemind's `DHTNode`, with what it believes of strangers taken away.

hivemind as it is stores whatever anybody sends, for as long as they say, decodes it recursively (a small nested message overflows the C
stack), and lets the answer with the latest expiry win. Here a node stores only signed, small, short-lived records under the name of their
signer, so many a key and no more; decodes flat; and checks what it finds again. A run's board is 16 keys, by the first four bits of the
member's key: hivemind stops answering when all subkeys of one key exceed 4 MiB.
"""

import asyncio
import logging
import random
import time
import typing
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.envelope import EnvelopeError, run_tag
from thinwire.comms.swarm.hive import hive
from thinwire.comms.swarm.identity import key_of, raw_peer_id_of
from thinwire.comms.swarm.records import MAX_LIFE_S, Record, peek_record, read_many, read_record
from thinwire.comms.swarm.transport import Key

log = logging.getLogger("thinwire")

SHARDS = 16
MAX_STORED = 512  # records under one key that this node keeps for others
MAX_STORED_KEYS = 64  # 4 runs
MAX_READ = 64  # records of one key that a reader looks at
_MAX_KEYS = 64  # in one request
_VERIFY_RATE, _VERIFY_BURST = 200.0, 1000.0  # signatures of others' records a second
_LOOKUP_S = 8.0
_MEET_S = 3.0
_DICTIONARY = 0x50  # hivemind's mark of a value with subkeys


class Board:
    """This node's part of the DHT. `admit(key)`: whose requests and records count."""

    def __init__(self, key: Key, admit: Callable[[Key], bool], refused: Counter[str]) -> None:
        self.key, self.admit, self.refused = key, admit, refused
        self._node: Any = None
        self._storage: Any = None
        self._searches: set[asyncio.Future[Any]] = set()
        self._tokens, self._then = _VERIFY_BURST, 0.0
        self._verified: OrderedDict[bytes, None] = OrderedDict()  # records found lately: the same come from several nodes

    async def attach(self, p2p: Any, peers: Sequence[Key], *, client_mode: bool = False) -> None:
        """Take part through this p2pd; what was stored is kept over a restart of it."""
        library = hive()
        protocol = _protocol(self)
        create = library.dht.DHTNode.create.__func__
        tame = FunctionType(
            create.__code__, {**create.__globals__, "DHTProtocol": protocol}, create.__name__, create.__defaults__, create.__closure__
        )
        tame.__kwdefaults__ = create.__kwdefaults__
        self._node = await tame(
            library.dht.DHTNode,
            p2p=p2p,
            node_id=library.routing.DHTID.generate(self.key),
            cache_locally=False,
            cache_nearest=0,
            cache_on_store=False,
            reuse_get_requests=False,
            client_mode=client_mode,
        )
        if self._storage is not None:
            self._node.protocol.storage = self._storage
        self._storage = self._node.protocol.storage
        await self.meet(peers)

    async def detach(self) -> None:
        """Stop; p2pd is closed by who started it."""
        if self._node is not None:
            node, self._node = self._node, None
            node.is_alive = False
            theirs = [task for task in asyncio.all_tasks() if _owner(task) in (node, node.protocol)]  # hivemind starts them and looks away
            await end([*self._searches, *theirs])

    async def meet(self, peers: Sequence[Key]) -> None:
        """Make peers known to the DHT that it may have missed; through them it then finds the nodes nearest to this one, for whom nobody
        has to wait."""
        node = self._node
        if node is None:
            return
        known = node.protocol.routing_table.peer_id_to_uid
        new = [peer for peer in (hive().PeerID(raw_peer_id_of(key)) for key in peers) if peer not in known]
        if new and any(await asyncio.gather(*(node.protocol.call_ping(peer) for peer in new))):
            if self._node is not node:  # detached meanwhile
                return
            search = asyncio.ensure_future(_look_around(node))
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)

    async def put(self, record: Record) -> bool:
        """Store this member's record; False when nobody took it."""
        if self._node is None:
            return False
        name = _name(record.run, record.key)
        store = asyncio.ensure_future(self._node.store(name, record.raw, record.expiry, subkey=record.key))
        try:
            await asyncio.wait([store], timeout=_LOOKUP_S)
            return store.done() and not store.cancelled() and bool(store.result())  # cancelled: p2pd has died, and is started again
        finally:
            store.cancel()

    async def get(self, run: str) -> dict[Key, Record]:
        """The good records of a run, newest first found; what some nodes do not answer in 8 s is left out."""
        if self._node is None:
            return {}
        tag = run_tag(run)
        names = [f"thinwire/{tag.hex()}/{shard}" for shard in range(SHARDS)]
        search = self._node.get_many(names, sufficient_expiration_time=float("inf"), return_futures=True)
        futures = await search
        try:
            done, _ = await asyncio.wait(list(futures.values()), timeout=_LOOKUP_S)
        finally:
            for future in futures.values():
                future.cancel()
        raws: list[object] = []
        for future in done:
            found = future.result() if not future.cancelled() and not future.exception() else None
            if found is not None and isinstance(found.value, dict):
                raws += [entry.value for entry in found.value.values()][:MAX_READ]
        return await read_many(raws, run=tag, now=time.time(), refused=self.refused)

    # ------------------------------------------------------------------ what strangers may do here

    def may_store(self, key_id: bytes, subkey: bytes, value: bytes, expiry: float) -> bool:
        """Whether to keep a record for somebody; counts why not."""
        try:
            self._check_store(key_id, subkey, value, expiry)
        except EnvelopeError as error:
            self.refused[error.reason] += 1
            return False
        return True

    def _check_store(self, key_id: bytes, subkey: bytes, value: bytes, expiry: float) -> None:
        name, raw = self.loads(subkey), self.loads(value)
        record = peek_record(raw, now=time.time())
        if name != record.key or expiry != record.expiry or key_id != _key_id(record.run, record.key):
            raise EnvelopeError("record: wrong name")
        if not self.admit(record.key):
            raise EnvelopeError("stranger")
        at = hive().routing.DHTID.from_bytes(key_id)
        there = self._storage.get(at) if self._storage is not None else None
        if there is None:
            if self._storage is not None and len(self._storage) >= MAX_STORED_KEYS:
                raise EnvelopeError("board full")
        elif record.key not in there.value and len(there.value) >= MAX_STORED:
            raise EnvelopeError("board full")
        now = time.monotonic()
        self._tokens, self._then = min(_VERIFY_BURST, self._tokens + (now - self._then) * _VERIFY_RATE), now
        if self._tokens < 1:
            raise EnvelopeError("flood")
        self._tokens -= 1
        read_record(record.raw)

    async def sift(self, dictionary: Any) -> Any:
        """Of what a node found for us, what is signed: a forged later record must not hide the real one."""
        sifted = hive().storage.DictionaryDHTValue()
        for i, (name, (value, expiry)) in enumerate(list(dictionary.items())):
            if value not in self._verified:
                if i % 8 == 7:
                    await asyncio.sleep(0)
                try:
                    read_record(_flat(value))
                except EnvelopeError as error:
                    self.refused[error.reason] += 1
                    continue
                self._verified[value] = None
                if len(self._verified) > MAX_STORED:
                    self._verified.popitem(last=False)
            sifted.store(name, value, expiry)
        return sifted

    def may_ask(self, context: Any) -> bool:
        """Whether to answer a peer at all."""
        key = key_of(context.remote_id.to_bytes())
        if key is None or not self.admit(key):
            self.refused["stranger"] += 1
            return False
        return True

    # ------------------------------------------------------------------ a serializer that does not recurse

    @staticmethod
    def dumps(value: object) -> bytes:
        """hivemind's own format."""
        return bytes(hive().serializer.MSGPackSerializer.dumps(value))

    def loads(self, data: bytes) -> Any:
        """Bytes, text or None; or a dictionary of subkeys, of which only entries that look right are kept, and not too many."""
        library = hive()
        value = _flat(data)
        if isinstance(value, library.msgpack.ExtType) and value.code == _DICTIONARY:
            dictionary = library.storage.DictionaryDHTValue()
            for name, raw, expiry in self._entries(_flat(value.data)):
                dictionary.store(name, raw, expiry)
            return dictionary
        return value if isinstance(value, bytes | str) else None

    def _entries(self, content: object) -> list[tuple[bytes, bytes, float]]:
        """What looks like records in a dictionary that somebody sent."""
        entries = content[2] if isinstance(content, list) and len(content) == 3 else None
        if not isinstance(entries, list):
            self.refused["record: malformed"] += 1
            return []
        if len(entries) > MAX_READ:
            self.refused["record: too many"] += len(entries) - MAX_READ
            entries = random.sample(entries, MAX_READ)
        kept, now = [], time.time()
        for entry in entries:
            try:
                name, value, expiry = entry
                record = peek_record(_flat(value), now=now)
                if name != record.key or expiry != record.expiry:
                    raise EnvelopeError("record: wrong name")
                if self.admit(record.key):
                    kept.append((name, value, expiry))
            except EnvelopeError as error:
                self.refused[error.reason] += 1
            except (TypeError, ValueError):
                self.refused["record: malformed"] += 1
        return kept


async def _look_around(node: Any) -> None:
    try:
        await asyncio.wait_for(node.find_nearest_nodes([node.node_id]), _MEET_S)
    except asyncio.TimeoutError:
        pass
    except Exception as error:  # hivemind raises anything when p2pd dies now, which is noticed elsewhere
        log.debug("the DHT could not be searched: %r", error)


def _flat(data: object) -> Any:
    """One msgpack value; types that would make the decoder call itself stay bytes. Raises `EnvelopeError`."""
    if not isinstance(data, bytes):
        raise EnvelopeError("record: malformed")
    try:
        return hive().msgpack.unpackb(data, raw=False, strict_map_key=False, ext_hook=hive().msgpack.ExtType)
    except Exception as error:  # msgpack raises half a dozen types
        raise EnvelopeError("record: malformed") from error


def _protocol(board: Board) -> Any:
    """hivemind's DHTProtocol with the board's checks; under its name, which is part of the names of its calls."""
    library = hive()
    base = library.dht.DHTProtocol

    async def rpc_ping(self: Any, request: Any, context: Any) -> Any:
        if not board.may_ask(context):
            raise ValueError("not welcome")
        return await base.rpc_ping(self, request, context)

    async def rpc_store(self: Any, request: Any, context: Any) -> Any:
        """Keep what may be kept of what somebody sends, and say so of each."""
        columns = (request.keys, request.subkeys, request.values, request.expiration_time)
        if not board.may_ask(context) or len({*map(len, columns), len(request.in_cache)}) != 1 or len(request.keys) > _MAX_KEYS:
            raise ValueError("not welcome")
        kept = [board.may_store(*item) for item in zip(*columns, strict=True)]
        good = [i for i, ok in enumerate(kept) if ok]
        part = type(request)(
            keys=[request.keys[i] for i in good],
            subkeys=[request.subkeys[i] for i in good],
            values=[request.values[i] for i in good],
            expiration_time=[request.expiration_time[i] for i in good],
            in_cache=[False] * len(good),
            peer=request.peer,
        )
        response = await base.rpc_store(self, part, context)
        said = iter(list(response.store_ok))
        del response.store_ok[:]
        response.store_ok.extend(next(said) if ok else False for ok in kept)
        return response

    async def rpc_find(self: Any, request: Any, context: Any) -> Any:
        if not board.may_ask(context) or len(request.keys) > _MAX_KEYS:
            raise ValueError("not welcome")
        return await base.rpc_find(self, request, context)

    async def call_find(self: Any, peer: Any, keys: Any) -> Any:
        """What a peer answers, without what would let it end the search or lead it astray."""
        found = await base.call_find(self, peer, keys)
        if found is None:
            return None
        latest = time.time() + MAX_LIFE_S
        answer = {}
        for key, (value, nearest) in found.items():
            sifted = None
            if value is not None and isinstance(value.value, library.storage.DictionaryDHTValue):
                expiry = min(value.expiration_time, latest)
                sifted = library.timed_storage.ValueWithExpiration(await board.sift(value.value), expiry)
            answer[key] = sifted, dict(list(nearest.items())[: self.bucket_size])
        return answer

    methods = [rpc_ping, rpc_store, rpc_find, call_find]
    for method in methods[:3]:
        method.__annotations__ = typing.get_type_hints(getattr(base, method.__name__))
    content: dict[str, Any] = {method.__name__: method for method in methods}
    return type("DHTProtocol", (base,), {**content, "serializer": board, "_rpc_handlers": None, "_stub_type": None})


def _name(run: bytes, key: Key) -> str:
    return f"thinwire/{run.hex()}/{key[0] >> 4}"


def _key_id(run: bytes, key: Key) -> bytes:
    return bytes(hive().routing.DHTID.generate(_name(run, key)).to_bytes())


def _owner(task: "asyncio.Task[Any]") -> object:
    """The object whose method a task runs."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame.f_locals.get("self") if frame is not None else None
