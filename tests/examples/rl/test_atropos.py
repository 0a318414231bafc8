"""A client written to the published schema posts groups, a trainer gets exact batches; and no body, however odd, changes anything."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from examples.rl.atropos import Atropos, AtroposLimits
from examples.rl.atropos_server import AtroposServer
from examples.rl.scored import ScoredGroup, ScoredLimits

TRAINER = {
    "wandb_group": "g",
    "wandb_project": "p",
    "batch_size": 8,
    "max_token_len": 64,
    "checkpoint_dir": "/tmp/x",
    "save_checkpoint_interval": 5,
    "starting_step": 3,
    "num_steps": 100,
}
ENVIRONMENT = {"max_token_length": 64, "desired_name": "sort", "weight": 1.0, "group_size": 4}
LIMITS = AtroposLimits(
    body_nbytes=1 << 20, groups=8, queued=32, buffered=8, environments=3, scored=ScoredLimits(sequences=16, tokens=64, vocabulary=1000)
)


class Client:
    """Speaks HTTP as aiohttp and requests do: JSON bodies, also on GET."""

    def __init__(self, url: str, token: str = "") -> None:
        self.address = url.removeprefix("http://")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection = HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **self.headers, **headers})
            response = connection.getresponse()
            text = response.read()
            kind = response.headers["Content-Type"] or ""
            return response.status, json.loads(text) if "json" in kind else text.decode()
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> Any:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    def get(self, path: str, body: Any = None) -> Any:
        status, answer = self.ask("GET", path, body)
        assert status == 200, answer
        return answer


def group(size: int = 4, first: int = 0, **fields: Any) -> dict[str, Any]:
    """Sequences of different lengths, each with a prompt of one token that is not trained on."""
    tokens = [[(first + i) % 1000] + [7] * (i % 3 + 1) for i in range(size)]
    return {
        "tokens": tokens,
        "masks": [[-100, *row[1:]] for row in tokens],
        "scores": [i / size for i in range(size)],
        "inference_logprobs": [[1.0] + [-0.5] * (len(row) - 1) for row in tokens],
        **fields,
    }


@pytest.fixture
def atropos() -> Atropos:
    return Atropos(limits=LIMITS)


@pytest.fixture
def client(atropos: Atropos) -> Iterator[Client]:
    with AtroposServer(atropos) as server:
        yield Client(server.url)


@pytest.fixture
def started(client: Client) -> Client:
    client.post("/register", TRAINER)
    client.get("/batch")
    return client


def test_an_environment_waits_for_the_trainer_registers_posts_and_the_trainer_gets_exact_batches(client: Client, atropos: Atropos) -> None:
    assert client.post("/register-env", ENVIRONMENT) == {"status": "wait for trainer to start"}
    assert client.get("/info") == {"batch_size": -1, "max_token_len": -1}
    assert "uuid" in client.post("/register", TRAINER)
    assert client.get("/info") == {"batch_size": 8, "max_token_len": 64}
    assert client.get("/wandb_info") == {"group": "g", "project": "p"}
    assert client.get("/batch") == {"batch": None}
    told = client.post("/register-env", ENVIRONMENT)
    assert told == {
        "status": "success",
        "env_id": 0,
        "wandb_name": "sort_0",
        "checkpoint_dir": "/tmp/x",
        "starting_step": 3,
        "checkpoint_interval": 5,
        "num_steps": 100,
    }
    assert client.post("/scored_data", group(first=1, env_id=0)) == {"status": "received"}
    assert client.get("/batch") == {"batch": None}
    several = client.post("/scored_data_list", [group(first=2, env_id=0), group(first=3, env_id=0)])
    assert several == {"status": "received", "groups_processed": 2}
    assert client.get("/status") == {"current_step": 3, "queue_size": 3}
    batch = client.get("/batch")["batch"]
    assert [one["tokens"][0][0] for one in batch] == [1, 2]
    assert sum(len(one["tokens"]) for one in batch) == 8
    assert client.get("/status") == {"current_step": 4, "queue_size": 1}
    assert client.post("/disconnect-env", {"env_id": 0}) == {"status": "success"}
    assert client.get("/reset_data") == "Reset successful"
    assert client.get("/status") == {"current_step": 0, "queue_size": 0}


def test_what_a_trainer_gets_is_what_was_posted_with_every_field(started: Client) -> None:
    posted = group(
        8,
        advantages=[[0.25] * (i % 3 + 2) for i in range(8)],
        messages=[[{"role": "user", "content": "\u00e9"}]] * 8,
        group_overrides={"a": [1, {"b": None}]},
        overrides=[{}] * 8,
        generation_params={"temperature": 1},
    )
    started.post("/scored_data", posted)
    assert started.get("/latest_example")["tokens"] == posted["tokens"]
    (got,) = started.get("/batch")["batch"]
    assert {name: got[name] for name in posted} == posted
    assert {name: value for name, value in got.items() if name not in posted} == dict.fromkeys(
        ("ref_logprobs", "images", "distill_token_ids", "distill_logprobs", "env_id")
    )


def test_a_learner_in_this_process_takes_plain_arrays(started: Client, atropos: Atropos) -> None:
    started.post("/scored_data_list", [group(4, advantages=[[0.5] * (i % 3 + 2) for i in range(4)]), group(4)])
    batch = atropos.batch()
    assert batch is not None
    one = batch[0]
    assert [row.tolist() for row in one.tokens] == group(4)["tokens"]
    assert [row.tolist() for row in one.masks[:2]] == [[False, True], [False, True, True]]
    assert (str(one.scores.dtype), one.scores.tolist()) == ("float32", [0, 0.25, 0.5, 0.75])
    assert one.advantages is not None
    assert one.inference_logprobs is not None
    assert one.inference_logprobs[0].tolist() == [1.0, -0.5]
    assert (one.ref_logprobs, one.environment, len(one)) == (None, None, 4)
    assert batch[1].advantages is None
    assert atropos.batch() is None


class Heap:
    """The smallest sink."""

    def __init__(self) -> None:
        self.groups: list[ScoredGroup] = []

    def put(self, group: ScoredGroup) -> None:
        self.groups.append(group)


def test_a_sink_gets_every_complete_group_at_once_and_environments_need_not_wait() -> None:
    heap = Heap()
    with AtroposServer(Atropos(heap, limits=LIMITS)) as server:
        client = Client(server.url)
        assert client.post("/register-env", ENVIRONMENT)["status"] == "success"
        for i in range(40):  # more than the queue would hold
            client.post("/scored_data", group(4, first=i, env_id=0))
        assert client.post("/scored_data", group(3, env_id=0)) == {"status": "buffered", "buffer_size": 3}
        assert len(heap.groups) == 40
        assert client.post("/scored_data", group(1, env_id=0)) == {"status": "buffered", "buffer_size": 0}
    assert [len(one) for one in heap.groups[40:]] == [3, 1]


def test_groups_of_mixed_sizes_are_held_until_they_add_up(started: Client) -> None:
    started.post("/register-env", ENVIRONMENT)
    assert started.post("/scored_data", group(3, first=1, env_id=0)) == {"status": "buffered", "buffer_size": 3}
    assert started.post("/scored_data", group(2, first=2, env_id=0)) == {"status": "buffered", "buffer_size": 5}
    assert started.get("/status")["queue_size"] == 0
    assert started.post("/scored_data", group(1, first=3, env_id=0)) == {"status": "buffered", "buffer_size": 2}
    assert started.get("/status")["queue_size"] == 2
    assert started.get("/batch") == {"batch": None}
    started.post("/scored_data", group(4, first=4, env_id=0))
    assert [one["tokens"][0][0] for one in started.get("/batch")["batch"]] == [1, 3, 4]


def test_an_environment_has_its_promised_share_of_every_batch(started: Client) -> None:
    started.post("/register-env", ENVIRONMENT)
    started.post("/register-env", {**ENVIRONMENT, "desired_name": "add", "min_batch_allocation": 0.5})
    for i in range(3):
        started.post("/scored_data", group(4, first=i, env_id=0))
    assert started.get("/batch") == {"batch": None}
    started.post("/scored_data", group(4, first=9, env_id=1))
    assert [one["env_id"] for one in started.get("/batch")["batch"]] == [0, 1]
    started.post("/disconnect-env", {"env_id": 1})
    assert [one["env_id"] for one in started.get("/batch")["batch"]] == [0, 0]


def test_an_environment_is_told_how_full_the_queue_is_by_body_and_by_query(started: Client) -> None:
    started.post("/register-env", ENVIRONMENT)
    started.post("/register-env", {**ENVIRONMENT, "weight": 3.0, "min_batch_allocation": 0.25})
    started.post("/scored_data_list", [group(4, env_id=0), group(4, env_id=0), group(4, env_id=1)])
    told = started.get("/status-env", {"env_id": 0})
    assert told == started.get("/status-env?env_id=0")
    assert told == {
        "current_step": 3,
        "queue_size": 2,  # 8 of its own, 4 of the other less the 2 that are promised, in groups of 4
        "unallocated_fraction": 0.75,
        "self_queue_size": 2,
        "max_group_size": 4,
        "env_weight": 0.25,
    }


def test_bodies_may_be_packed(started: Client) -> None:
    packed = gzip.compress(json.dumps(group(8)).encode())
    assert started.ask("POST", "/scored_data", packed, **{"Content-Encoding": "gzip"})[0] == 200
    assert started.get("/status")["queue_size"] == 1


def changed(**fields: Any) -> bytes:
    return json.dumps({**group(), **fields}).encode()


DEEP = b"[" * 100_000
BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"{", 422),
    "another type": (b"[]", 422),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.", 422),
    "deep": (DEEP, 422),
    "deep in a field that is handed on": (changed()[:-1] + b', "messages": ' + DEEP + b"]" * 100_000 + b"}", 422),
    "an unknown field": (changed(extra=1), 422),
    "a field missing": (b'{"tokens": [[1]], "masks": [[1]]}', 422),
    "text for a number": (changed(scores=["1"] * 4), 422),
    "true for a number": (changed(scores=[True] * 4), 422),
    "a float for a token": (changed(tokens=[[1.5]] * 4), 422),
    "NaN": (changed(scores=[float("nan")] * 4), 422),
    "Infinity": (changed(scores=[float("inf")] * 4), 422),
    "a number beyond float": (changed().replace(b"0.75", b"1e999"), 422),
    "a number beyond float32": (changed().replace(b"0.75", b"1e200"), 422),
    "a token beyond 64 bits": (changed().replace(b"[[0,", b"[[%d," % 10**30).replace(b"[[0 ", b"x"), 422),
    "a token beyond the vocabulary": (changed().replace(b"[[0,", b"[[1000,"), 422),
    "a token below 0": (changed().replace(b"[[0,", b"[[-1,"), 422),
    "a mask of another shape": (changed(masks=[[1]] * 4), 422),
    "masks missing": (changed(masks=[]), 422),
    "a mask that is no label": (changed(masks=[[-1] * (i % 3 + 2) for i in range(4)]), 422),
    "scores missing": (changed(scores=[1.0]), 422),
    "ragged advantages": (changed(advantages=[[1.0]] * 4), 422),
    "a log-prob above 0": (changed(inference_logprobs=[[0.1] * (i % 3 + 2) for i in range(4)]), 422),
    "no sequences": (json.dumps({"tokens": [], "masks": [], "scores": []}).encode(), 422),
    "an empty sequence": (json.dumps({"tokens": [[]], "masks": [[]], "scores": [1]}).encode(), 422),
    "a long sequence": (json.dumps({"tokens": [[1] * 65], "masks": [[1] * 65], "scores": [1]}).encode(), 422),
    "many sequences": (json.dumps(group(17)).encode(), 422),
    "an unknown environment": (changed(env_id=7), 404),
    "a negative environment": (changed(env_id=-1), 404),
    "more than its environment makes": (json.dumps(group(5, env_id=0)).encode(), 422),
}


def state(client: Client) -> Any:
    return client.get("/status"), client.get("/latest_example"), client.get("/status-env", {"env_id": 0})


def test_no_body_that_cannot_be_changes_anything_alone_or_in_a_list(started: Client) -> None:
    started.post("/register-env", ENVIRONMENT)
    started.post("/scored_data", group(env_id=0))
    before = state(started)
    good = json.dumps(group(env_id=0)).encode()
    for what, (body, wanted) in BODIES.items():
        status, answer = started.ask("POST", "/scored_data", body)
        assert (status, set(answer)) == (wanted, {"detail"}), what
        status, _ = started.ask("POST", "/scored_data_list", b"[%s, %s]" % (good, body))
        assert 400 <= status < 500, what
    assert state(started) == before


def test_registrations_that_cannot_be_are_refused(client: Client) -> None:
    bad: list[dict[str, Any]] = [{"batch_size": 0}, {"batch_size": 33}, {"batch_size": "8"}, {"wandb_group": "x" * 257}, {"extra": 1}]
    for changes in [*bad, {"starting_step": -1}]:
        assert client.ask("POST", "/register", {**TRAINER, **changes})[0] == 422
    assert client.ask("GET", "/batch")[0] == 409
    assert client.ask("POST", "/scored_data", group())[0] == 409
    client.post("/register", TRAINER)
    client.get("/batch")
    bad = [{"group_size": 0}, {"group_size": 17}, {"weight": -1}, {"weight": 1e300}, {"min_batch_allocation": 1.5}]
    for more in [*bad, {"max_token_length": 0}]:
        assert client.ask("POST", "/register-env", {**ENVIRONMENT, **more})[0] == 422
    for path in ("/status-env", "/status-env?env_id=x", "/status-env?env_id=1&env_id=2"):
        assert client.ask("GET", path)[0] == 422
    assert client.ask("GET", "/status-env?env_id=5")[0] == 404
    assert client.ask("POST", "/disconnect-env", {"env_id": 0})[0] == 404


def test_what_is_full_says_503_and_keeps_what_it_has(started: Client) -> None:
    for _ in range(3):
        started.post("/register-env", ENVIRONMENT)
    assert started.ask("POST", "/register-env", ENVIRONMENT)[0] == 503
    for _ in range(8):
        started.post("/scored_data", group(4))
    assert started.ask("POST", "/scored_data", group(1))[0] == 503
    assert started.ask("POST", "/scored_data", group(1, env_id=0))[0] == 503
    assert started.ask("POST", "/scored_data_list", [group(1)] * 9)[0] == 413
    assert started.get("/status")["queue_size"] == 8
    started.get("/batch")
    started.post("/scored_data", group(4))


def test_pieces_that_never_add_up_fill_no_memory(started: Client) -> None:
    started.post("/register-env", {**ENVIRONMENT, "group_size": 7})
    for _ in range(2):
        started.post("/scored_data", group(4, env_id=0))
    assert started.ask("POST", "/scored_data", group(4, env_id=0))[0] == 503


def test_bytes_that_nobody_reads_are_bounded_too() -> None:
    small = Atropos(Heap(), limits=AtroposLimits(kept_nbytes=5000))
    with AtroposServer(small) as server:
        client = Client(server.url)
        client.post("/register-env", ENVIRONMENT)
        heavy = group(1, env_id=0, images="x" * 2000)
        client.post("/scored_data", heavy)
        client.post("/scored_data", heavy)
        assert client.ask("POST", "/scored_data", heavy)[0] == 503
        client.post("/scored_data", group(2, env_id=0))
        client.post("/scored_data", heavy)


def raw(client: Client, data: bytes) -> bytes:
    host, port = client.address.split(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 99999999999999", 413),
        (b"Content-Length: 9999999999999999999999", 400),
        (b"Content-Length: -5", 400),
        (b"Content-Length: 1e3", 400),
        ("Content-Length: \u0661".encode(), 400),
        (b"Transfer-Encoding: chunked", 411),
    ],
)
def test_lengths_that_lie_are_refused_before_a_byte_is_read(started: Client, head: bytes, status: int) -> None:
    answer = raw(started, b"POST /scored_data HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_a_body_that_unpacks_to_more_than_allowed_or_ends_early_is_refused(started: Client) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    assert started.ask("POST", "/scored_data", bomb, **{"Content-Encoding": "gzip"})[0] == 413
    for body in (bomb[:100], b"no gzip"):
        assert started.ask("POST", "/scored_data", body, **{"Content-Encoding": "gzip"})[0] == 400


def test_paths_and_methods_that_are_none_are_refused(client: Client) -> None:
    assert client.ask("GET", "/secrets")[0] == 404
    assert client.ask("POST", "/batch", {})[0] == 404
    assert client.ask("GET", "/scored_data")[0] == 404
    assert client.ask("DELETE", "/status")[0] == 501
    assert client.get("/") == {"message": "AtroposLib API"}


def test_a_request_that_drips_is_hung_up_on() -> None:
    with AtroposServer(Atropos(limits=AtroposLimits(requests=1, request_s=0.3))) as server:
        host, port = server.server_address[:2]
        with socket.create_connection((str(host), port), 60) as slow:
            slow.sendall(b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            answer = b""
            while chunk := slow.recv(1 << 16):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not _is_turned_away(server.url))


def test_a_crowd_is_turned_away() -> None:
    atropos = Atropos(limits=AtroposLimits(requests=1))
    with AtroposServer(atropos) as server:
        host, port = server.server_address[:2]
        with socket.create_connection((str(host), port), 60):  # comes in first and says nothing
            assert _is_turned_away(server.url)
        wait_until(lambda: not _is_turned_away(server.url))
    assert atropos.counts["crowded"] >= 1


def _is_turned_away(url: str) -> bool:
    try:
        Client(url).ask("GET", "/status")
    except OSError:
        return True
    return False


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_who_listens_to_others_asks_for_a_token() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ValueError, match="token of at least 16"):
            AtroposServer(Atropos(), host)
    with AtroposServer(Atropos(), "127.0.0.1", token="s" * 16) as server:
        assert Client(server.url).ask("GET", "/status")[0] == 401
        assert Client(server.url, "t" * 16).ask("POST", "/register", TRAINER)[0] == 401
        assert Client(server.url, "s" * 16).ask("GET", "/status")[0] == 200


def test_what_fails_here_is_said_and_logged_and_the_next_request_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def put(self, group: ScoredGroup) -> None:
            raise RuntimeError("no room")

    with AtroposServer(Atropos(Broken(), limits=LIMITS)) as server:
        assert Client(server.url).ask("POST", "/scored_data", group())[0] == 500
        assert Client(server.url).ask("GET", "/status")[0] == 200
    assert "no room" in caplog.text


def test_many_environments_at_once_lose_nothing(started: Client, atropos: Atropos) -> None:
    started.post("/register-env", ENVIRONMENT)
    threads = [threading.Thread(target=started.post, args=("/scored_data", group(4, first=i, env_id=0))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    firsts = []
    for _ in range(4):
        batch = atropos.batch()
        assert batch is not None
        firsts += [int(one.tokens[0][0]) for one in batch]
    assert sorted(firsts) == list(range(8))
