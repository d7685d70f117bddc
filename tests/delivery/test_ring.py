"""The submission ring on real sockets: every byte and every refusal, wherever it stands."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalam_notify.delivery import ring as ring_module
from kalam_notify.delivery.ring import Alike, Ring, Run, open_ring

FULL = b"z" * (8 << 20)


def ring_or_skip(entries: int) -> Ring:
    try:
        return Ring(entries)
    except OSError as fault:
        pytest.skip(f"this kernel gives no io_uring: {fault}")


@contextmanager
def pairs(count: int) -> Iterator[tuple[list[int], list[socket.socket]]]:
    """Descriptors to write to without waiting, and the sockets to read at."""
    with ExitStack() as stack:
        both = [socket.socketpair() for _ in range(count)]
        for ours, theirs in both:
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.setblocking(False)
            theirs.setblocking(False)
        yield [ours.fileno() for ours, _ in both], [theirs for _, theirs in both]


def drain(reader: socket.socket) -> bytes:
    got = b""
    try:
        while piece := reader.recv(1 << 20):
            got += piece
    except BlockingIOError:
        pass
    return got


STEPS = st.none() | st.integers(1, 8)


@given(batches=st.lists(st.tuples(st.integers(1, 8), st.booleans(), STEPS), max_size=30))
@settings(deadline=None, max_examples=40)
def test_bytes_arrive_whole_and_in_order_wherever_the_queue_wraps(
    batches: list[tuple[int, bool, int | None]],
) -> None:
    ring = ring_or_skip(8)
    with pairs(8) as (fds, readers):
        expected = [b""] * 8
        for number, (count, alike, step) in enumerate(batches):
            parts = [
                b"%d/%d;" % (number, 0 if alike else place) * (place % 3 + 1)
                for place in range(count)
            ]
            if alike:
                parts = [parts[0]] * count
                runs: list[Run] = [Alike(count, len(parts[0]))]
                assert ring.send(fds[:count], parts[0], runs, step) == []
            else:
                sizes = [len(part) for part in parts]
                assert ring.send(fds[:count], b"".join(parts), [sizes], step) == []
            for place, part in enumerate(parts):
                expected[place] += part
        assert [drain(reader) for reader in readers] == expected
    ring.close()


@pytest.mark.parametrize("step", [None, 2])
def test_what_is_refused_is_told_with_what_was_taken_of_it(step: int | None) -> None:
    ring = ring_or_skip(8)
    with pairs(6) as (fds, readers):
        taken = os.write(fds[1], FULL)
        readers[3].close()
        refused = dict(ring.send([*fds[:5], 1 << 20], b"hello", [Alike(6, 5)], step))
        # 1: its buffer is full. 3: nobody reads there. The last: no such descriptor.
        assert refused == {1: 0, 3: -1, 5: -1}
        assert [drain(readers[n]) for n in (0, 2, 4)] == [b"hello"] * 3
        assert drain(readers[1]) == FULL[:taken]
        # Taken in part.
        refused = dict(ring.send(fds[:3], FULL, [Alike(3, len(FULL))], step))
        assert set(refused) == {0, 1, 2}
        assert all(0 < sent < len(FULL) for sent in refused.values())
        assert [len(drain(readers[n])) for n in range(3)] == [refused[n] for n in range(3)]
        # And the ring goes on.
        assert ring.send(fds[:3], b"again", [Alike(3, 5)]) == []
    ring.close()


@pytest.mark.parametrize(("step", "short_call"), [(None, 0), (2, 0), (2, 1), (2, 2)])
def test_what_the_kernel_has_not_looked_at_is_not_waited_for(
    step: int | None, short_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = ring_or_skip(8)
    enter, calls = ring._enter_call, []

    def short(number: int, ring_fd: int, many: int, end: int, *others: object) -> int:
        calls.append(many)
        if len(calls) <= short_call:
            return enter(number, ring_fd, many, end, *others)
        # As the kernel does it: what it has not submitted it does not wait for either.
        assert len(calls) == short_call + 1, "asked again after a short one"
        return enter(number, ring_fd, many - 1, 0, 0, None, 0)

    monkeypatch.setattr(ring, "_enter_call", short)
    with pairs(6) as (fds, readers):
        refused = ring.send(fds, b"hello", [Alike(6, 5)], step)
        first_left = (step or 6) * (short_call + 1) - 1
        assert refused == [(n, 0) for n in range(first_left, 6)]
        assert [drain(r) for r in readers] == [b"hello"] * first_left + [b""] * (6 - first_left)
        monkeypatch.undo()
        assert ring.send(fds, b"abcdef", [[1, 1], [1, 1, 1, 1]], step) == []
        assert [drain(reader) for reader in readers] == [b"a", b"b", b"c", b"d", b"e", b"f"]
    ring.close()


def open_rings() -> int:
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum("io_uring" in str(link.readlink()) for link in links)


def test_a_closed_ring_leaves_no_descriptor() -> None:
    ring_or_skip(8).close()
    before = open_rings()
    ring = Ring(8)
    assert open_rings() > before
    ring.close()
    assert open_rings() == before


def test_a_ring_is_opened_where_it_may_be_and_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ring_or_skip(8).close()
    caplog.set_level(logging.INFO, "kalam_notify.delivery")
    monkeypatch.setattr(ring_module, "may_ask_for_io_uring", lambda: True)
    ring = open_ring(None, 8)
    assert ring is not None
    ring.close()
    assert "through io_uring" in caplog.text
    assert open_ring(False, 8) is None


FILTERED = """
import ctypes, logging, struct, sys
from kalam_notify.delivery.ring import open_ring
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
action = int(sys.argv[1])
# BPF: the number of the system call; one of them gets the action, all others are allowed.
load, test, number = (0x20, 0, 0, 0), (0x15, 0, 1), int(sys.argv[2])
give, allow = (6, 0, 0, action), (6, 0, 0, 0x7FFF0000)
program = struct.pack("HBBI" * 4, *load, *test, number, *give, *allow)
held = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(held)))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
print(open_ring(None, 8) is not None)
"""


@pytest.mark.parametrize("number", [425, 426])  # io_uring_setup, io_uring_enter
@pytest.mark.parametrize(
    ("action", "given", "said"),
    [
        (0x80000000, "False", "kills who asks"),  # SECCOMP_RET_KILL_PROCESS
        (0x00050001, "False", "socket by socket"),  # SECCOMP_RET_ERRNO, EPERM
        (0x7FFF0000, "True", "through io_uring"),  # SECCOMP_RET_ALLOW
    ],
)
def test_under_a_seccomp_filter_nobody_dies_of_asking(
    number: int, action: int, given: str, said: str
) -> None:
    ring_or_skip(8).close()
    child = subprocess.run(
        [sys.executable, "-c", FILTERED, str(action), str(number)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == given
    assert said in child.stdout


def test_a_kernel_that_says_no_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ring_module, "_SETUP", 1_000_000)  # no such system call
    assert open_ring(True, 8) is None
    assert "socket by socket" in caplog.text
