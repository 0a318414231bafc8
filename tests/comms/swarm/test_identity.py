"""Key files and names: one key, read by us and by libp2p, never readable by others, never replaced by accident."""

import copy
import os
import pickle
import threading
from pathlib import Path

import pytest

from thinwire.comms.swarm.identity import Identity, IdentityFileError, key_of, peer_id_of, unbase58, verify

RFC8032_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC8032_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_known_answers() -> None:
    identity = Identity.from_seed(RFC8032_SEED)
    assert identity.key == RFC8032_KEY
    signature = identity.sign(b"")
    assert signature.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
    assert identity.peer_id.startswith("12D3KooW")
    # what p2pd printed for this key
    key = bytes.fromhex("8da289ecf9a9b033dbf49e6e343afcea4f8fa30f0cbc1cd9f92b0b551281087d")
    assert peer_id_of(key) == "12D3KooWKMFQQM9vWLHFcHcJqUCUGWRETjzxKxbtCsntb9zAYp9A"
    assert key_of(peer_id_of(key)) == key


@pytest.mark.parametrize("peer_id", ["", "1", "0OIl", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 200, b"", b"\0" * 38])
def test_other_peer_ids_are_no_members(peer_id: str | bytes) -> None:
    assert key_of(peer_id) is None


def test_base58_keeps_leading_zeros() -> None:
    assert unbase58("112") == b"\0\0\1"
    assert unbase58("") == b""


def test_signatures() -> None:
    identity = Identity.generate()
    signature = identity.sign(b"data")
    assert verify(identity.key, b"data", signature)
    assert not verify(identity.key, b"Data", signature)
    assert not verify(Identity.generate().key, b"data", signature)
    for key, made in [
        (b"", signature),
        (identity.key, b""),
        (identity.key, signature + b"x"),
        (bytes(32), signature),
        (b"\xff" * 32, signature),
    ]:
        assert not verify(key, b"data", made)


def test_a_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    identity = Identity.load_or_create(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["key"]
    assert Identity.load(path).key == identity.key
    assert Identity.load_or_create(path).key == identity.key
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert os.listdir(path.parent) == ["key"]


def test_one_key_for_all_who_start_at_once(tmp_path: Path) -> None:
    keys: list[bytes] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait(10)
        keys.append(Identity.load_or_create(tmp_path / "key").key)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(keys) == 8
    assert len(set(keys)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(IdentityFileError, match="chmod 600"):
        Identity.load(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good = Identity.generate().to_bytes()
    path = tmp_path / "key"
    path.touch(mode=0o600)
    for bad in (b"", good[:-1], good + b"x", b"\x08\x00" + good[2:], good[:40] + bytes([good[40] ^ 1]) + good[41:], bytes(1 << 20)):
        path.write_bytes(bad)
        with pytest.raises(IdentityFileError):
            Identity.load(path)
    with pytest.raises(IdentityFileError, match="ordinary"):
        Identity.load("/dev/null")


def test_the_private_key_does_not_leak() -> None:
    identity = Identity.from_seed(RFC8032_SEED)
    assert RFC8032_SEED.hex() not in repr(identity)
    with pytest.raises(TypeError):
        pickle.dumps(identity)
    with pytest.raises(TypeError):
        copy.deepcopy(identity)
