"""Keys on disk: who holds which, who may connect, and who may read them."""

import stat
import threading
from pathlib import Path

import pytest
import zmq

from bus.auth import SERVER, AllowList, KeyProblem, KeyRing, open_listener


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_for_its_owner_alone(ring: KeyRing) -> None:
    public = ring.new("me")
    assert mode(public.with_suffix(".key_secret")) == 0o600
    assert mode(ring.directory) == 0o700
    ring.allow("me")
    assert mode(ring.allowed_dir) == 0o700


def test_a_pair_is_a_pair(ring: KeyRing) -> None:
    public = ring.new("me")
    pair = ring.pair("me")
    assert pair[0] == ring.public(public) == zmq.curve_public(pair[1])
    assert b"secret-key" not in public.read_bytes()


def test_a_key_is_never_overwritten(ring: KeyRing) -> None:
    public = ring.new("me")
    with pytest.raises(KeyProblem, match="exists"):
        ring.new("me")
    public.unlink()
    with pytest.raises(KeyProblem, match="exists"):
        ring.new("me")


@pytest.mark.parametrize("name", ["", ".", "..", "../me", "a/b", "a b", "a\n", "x" * 65, "-a"])
def test_a_name_is_not_a_path(ring: KeyRing, name: str) -> None:
    for act in (ring.new, ring.allow, ring.pair):
        with pytest.raises(KeyProblem, match="a key name is"):
            act(name)


def test_allowing_and_revoking(ring: KeyRing, tmp_path: Path) -> None:
    assert ring.allowed() == {}
    key = ring.allow("me", KeyRing(tmp_path / "elsewhere").new("theirs"))
    assert ring.allowed() == {"me": key}
    ring.revoke("me")
    assert ring.allowed() == {}
    with pytest.raises(KeyProblem, match="not in the allow-list; allowed: nobody"):
        ring.revoke("me")


def test_an_unreadable_key_counts_not(ring: KeyRing) -> None:
    ring.new("me")
    key = ring.allow("me")
    (ring.allowed_dir / "half.key").write_text("curve\n")
    (ring.allowed_dir / "binary.key").write_bytes(b"\xff\x00")
    assert ring.allowed() == {"me": key}
    assert key in AllowList(ring)


@pytest.mark.parametrize("text", ["", "rubbish", "curve\n"])
def test_a_file_that_is_no_key_is_told(ring: KeyRing, tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.key"
    path.write_text(text)
    with pytest.raises(KeyProblem, match="no readable key file; make one with: sovl keys new"):
        ring.public(path)


def test_changes_show_at_once_however_quick(ring: KeyRing) -> None:
    """A directory's own time is too coarse for changes a millisecond apart."""
    allowed = AllowList(ring)
    keys = [ring.public(ring.new(f"key{number}")).decode() for number in range(20)]
    for _ in range(10):
        for number, key in enumerate(keys):
            ring.allow("me", ring.directory / f"key{number}.key")
            assert key in allowed
            assert keys[number - 1] not in allowed
        ring.revoke("me")
        assert keys[-1] not in allowed


def test_reading_while_somebody_allows_never_fails(ring: KeyRing) -> None:
    ring.new("me")
    allowed = AllowList(ring)
    key = ring.allow("me")
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            ring.allow("me")
            ring.allow("other", ring.directory / "me.key")
            ring.revoke("other")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert all(key in allowed for _ in range(1000))
    finally:
        over.set()
        thread.join()


def test_tcp_is_never_served_without_keys(ring: KeyRing) -> None:
    with pytest.raises(KeyProblem, match="with keys only"):
        open_listener("tcp://127.0.0.1:1", queue=1, max_bytes=1)
    with pytest.raises(KeyProblem, match=f"sovl keys new {SERVER}"):
        open_listener("tcp://127.0.0.1:1", queue=1, max_bytes=1, keys=ring)
