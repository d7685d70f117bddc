"""Which tokens are revoked, and the file that all workers share."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from auth_helpers import SECRET, token

from kalam_notify.auth import TokenVerifier, sign
from kalam_notify.auth.revocation_file import SPARE_LINES, RevocationFile
from kalam_notify.auth.tokens import Revocation, Revocations
from kalam_notify.config import JwtSettings
from kalam_notify.errors import AuthenticationFailed, StorageFault
from kalam_notify.model import Identity, Role, UserId

NOW = 1_000_000.0
FAR = 2_000_000.0


def identity(user: str = "alice", **claims: Any) -> Identity:
    return Identity(UserId(user), Role.USER, claims, FAR)


def user(name: str, at: float = NOW, until: float = FAR) -> Revocation:
    return Revocation("user", name, at, until)


def token_id(name: str, at: float = NOW, until: float = FAR) -> Revocation:
    return Revocation("token_id", name, at, until)


def of(*revocations: Revocation) -> Revocations:
    ledger = Revocations()
    ledger.add(revocations)
    return ledger


@pytest.mark.parametrize(
    ("claims", "is_refused"),
    [
        ({"iat": NOW - 1}, True),
        ({"iat": NOW}, True),
        ({"iat": NOW + 0.001}, False),
        ({"iat": int(NOW) + 1}, False),
        ({}, True),
        ({"iat": None}, True),
        ({"iat": True}, True),
        ({"iat": str(NOW + 1)}, True),
        ({"iat": float("nan")}, True),
        ({"iat": float("inf")}, True),
        # In milliseconds, or otherwise beyond belief.
        ({"iat": NOW * 1000}, True),
        ({"iat": NOW + 200}, True),
        ({"iat": NOW + 100 + 60}, False),
    ],
)
def test_a_users_tokens_up_to_the_revocation_are_refused(claims: Any, is_refused: bool) -> None:
    assert of(user("alice")).refuse(identity(**claims), NOW + 100, 60) is is_refused


def test_a_token_of_the_very_second_of_the_revocation_counts_as_issued_before() -> None:
    assert of(user("alice", NOW + 0.9)).refuse(identity(iat=int(NOW)), NOW + 1, 60)


def test_others_are_not_refused() -> None:
    ledger = of(user("alice"), token_id("t1"))
    for other in (
        identity("Alice"),
        identity("bob", jti="t2"),
        identity("t1"),
        identity("b", jti=1),
    ):
        assert not ledger.refuse(other, NOW, 60)
    assert ledger.refuse(identity("bob", jti="t1", iat=NOW + 5), NOW + 5, 60)


def test_an_api_key_of_the_same_name_is_no_token() -> None:
    assert not of(user("feeder")).refuse(Identity(UserId("feeder"), Role.SERVICE), NOW, 60)


def test_of_two_revocations_the_later_times_stand() -> None:
    ledger = of(user("a", NOW, FAR + 5), user("a", NOW + 10, FAR), user("a", NOW - 10, FAR))
    assert list(ledger) == [user("a", NOW + 10, FAR + 5)]


def test_what_has_expired_is_forgotten() -> None:
    ledger = of(user("a", until=NOW + 1), token_id("b", until=NOW + 2))
    ledger.forget_expired(NOW + 1)
    assert list(ledger) == [token_id("b", until=NOW + 2)]


def test_the_farthest_expiry_is_that_of_any_token_that_was_seen() -> None:
    verifier = TokenVerifier(JwtSettings(secret=SECRET, leeway=5))
    now = time.time()
    assert now + 300 * 86400 < verifier.revocations.last_expiry(now) < now + 400 * 86400
    far = int(now) + 10**9
    verifier.verify(token(exp=far))
    assert verifier.revocations.last_expiry(now) == far + 5


def test_a_revoked_token_is_refused_from_the_cache_too_and_a_new_one_holds() -> None:
    settings = JwtSettings(secret=SECRET)
    verifier = TokenVerifier(settings)
    before = sign(settings, "alice", now=time.time() - 10)
    assert verifier.verify(before)
    verifier.revocations.add([user("alice", time.time(), time.time() + 1000)])
    for _ in range(2):
        with pytest.raises(AuthenticationFailed, match="revoked"):
            verifier.verify(before)
    assert verifier.verify(sign(settings, "alice", now=time.time() + 0.1))
    assert verifier.failures == {"revoked": 2}


class Disk:
    """The file, and what processes know of it that have loaded it at some time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW

    def process(self) -> tuple[RevocationFile, Revocations]:
        ledger = Revocations()
        file = RevocationFile(self.path, ledger, lambda: self.now)
        file.load()
        return file, ledger


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "kalam.revoked")


def test_what_one_process_appends_others_find_and_a_later_one_loads(disk: Disk) -> None:
    (one, _), (other, known) = disk.process(), disk.process()
    assert list(other.look()) == []
    one.append(user("a"))
    assert list(other.look()) == [user("a")]
    assert list(other.look()) == []
    other.append(token_id("b"))
    one.append(user("c"))
    assert list(other.look()) == [token_id("b"), user("c")]
    assert list(known) == list(disk.process()[1]) == [user("a"), token_id("b"), user("c")]
    assert disk.path.stat().st_mode & 0o777 == 0o600


def test_a_line_torn_by_a_crash_is_none_and_spoils_not_the_next(disk: Disk) -> None:
    one, _ = disk.process()
    one.append(user("a"))
    whole = disk.path.read_bytes()
    for torn in (b"{", b'{"kind":"user","na', disk_line(user("b"))[:-1]):
        disk.path.write_bytes(whole + torn)
        other, known = disk.process()
        assert list(known) == [user("a")]
        reader, _ = disk.process()
        other.append(user("c"))
        assert list(disk.process()[1]) == [user("a"), user("c")]
        assert list(reader.look()) == [user("c")]
        disk.path.write_bytes(whole)


def test_a_file_that_is_something_else_keeps_the_server_from_starting(disk: Disk) -> None:
    disk.path.write_text("alice\n")
    with pytest.raises(StorageFault, match=str(disk.path)):
        disk.process()
    disk.path.unlink()
    disk.path.mkdir()
    with pytest.raises(StorageFault, match=str(disk.path)):
        disk.process()


def test_a_line_that_is_none_hides_no_other_from_those_who_look(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    one, known = disk.process()
    with disk.path.open("ab") as file:
        file.write(disk_line(user("a")) + b"nonsense\n" + disk_line(user("b")))
    assert list(one.look()) == list(known) == [user("a"), user("b")]
    disk.path.unlink()
    disk.path.mkdir()
    for _ in range(5):
        assert list(one.look()) == []
    assert len(caplog.records) == 2, "each fault is told once"


def test_a_file_that_was_removed_is_written_again_with_all_that_is_in_force(disk: Disk) -> None:
    one, known = disk.process()
    for name in "ab":
        known.add([user(name)])
        one.append(user(name))
    disk.path.unlink()
    known.add([user("c")])
    one.append(user("c"))
    assert {r.name for r in disk.process()[1]} == {"a", "b", "c"}


def test_a_start_drops_what_has_expired_once_there_is_much_of_it(disk: Disk) -> None:
    one, _ = disk.process()
    late, known_late = disk.process()
    one.append(user("kept"))
    lines = disk.path.read_bytes()
    for number in range(SPARE_LINES + 1):
        lines += disk_line(user(f"u{number}", until=NOW + 1))
    disk.path.write_bytes(lines)
    disk.now = NOW + 2
    fresh, known = disk.process()
    assert list(known) == [user("kept")]
    assert disk.path.read_bytes().count(b"\n") == 1
    # Those that had the old file open go over to the new one.
    fresh.append(user("new"))
    assert user("new") in late.look()
    late.append(user("newer"))
    assert list(fresh.look())[-1] == user("newer")
    assert user("kept") in list(known_late)


def disk_line(revocation: Revocation) -> bytes:
    return msgspec.json.encode(revocation) + b"\n"
