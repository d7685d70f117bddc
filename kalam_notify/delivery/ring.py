"""Many sends in one system call: Linux's io_uring, as far as the fan-out needs it.

Per delivery, Python asks for one system call, for letting go of the interpreter's lock and taking
it again, and for a turn of a bytecode loop. A submission ring asks for none of these: 256 requests
"send these bytes to that socket" are laid out in memory shared with the kernel, a few strided
copies for all of them, and handed over in one call.

Every request carries MSG_DONTWAIT, so the kernel completes it before the call returns, taken,
partly taken or refused; nothing is ever under way while Python runs, and the call waits for all
completions to be sure of that. So bytes and descriptors need to live no longer than the call.

Where there is no io_uring (another system, an old kernel, a sandbox that forbids it) `open_ring`
returns None and the fan-out writes socket by socket, to the same effect.

Format: io_uring_setup(2), io_uring_enter(2), and the structs of <linux/io_uring.h>, all of which
are fixed by the kernel's rule never to break user space.
"""

import errno
import itertools
import logging
import mmap
import os
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from kalam_notify.loops import may_ask_for_io_uring

_logger = logging.getLogger("kalam_notify.delivery")

# The same numbers on every architecture that has io_uring, alpha apart.
_SETUP, _ENTER = 425, 426
_OFFSET_COMPLETIONS, _OFFSET_REQUESTS = 0x8000000, 0x10000000
_ENTER_GETEVENTS = 1
_OP_SEND = 26
# SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1): one thread submits and
# waits, so the kernel need not interrupt it to tell it what it is about to read. 0: Linux 5.6.
_FLAGS = (1 << 7 | 1 << 8 | 1 << 12 | 1 << 13, 0)
_PARAMS_BYTES = 120
_SQE_BYTES, _CQE_BYTES = 64, 16
_WRAP = 0xFFFFFFFF
# Nothing was taken, and nothing is wrong with the socket.
_TRY_LATER = (-errno.EAGAIN, -errno.EINTR, -errno.ENOMEM, -errno.ENOBUFS)


class Alike(NamedTuple):
    """The next `size` bytes, sent so many times."""

    times: int
    size: int


Run = Alike | list[int]
"""A span of the data, and what is sent of it: the same bytes to several, or, as sizes, to each
its own part, one after the other."""

Refused = list[tuple[int, int]]
"""What was not taken whole: its index, and the bytes taken; -1 for a broken socket."""


class Ring:
    """A submission ring of `entries` sends. For one thread: the one that made it.

    Raises OSError where the kernel will not have one.
    """

    def __init__(self, entries: int) -> None:
        # Where memory must not be both written and executed, importing it may fail.
        import ctypes

        self._ctypes = ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        self._set_up_call, self._enter_call = libc["syscall"], libc["syscall"]
        self._yield = libc["sched_yield"]
        for call, types in (
            (self._set_up_call, (ctypes.c_uint, ctypes.c_void_p)),
            (self._enter_call, (*(ctypes.c_uint,) * 4, ctypes.c_void_p, ctypes.c_size_t)),
        ):
            call.argtypes, call.restype = (ctypes.c_long, *types), ctypes.c_long
        self._descriptor, params = self._set_up(entries)
        self._enter = (_ENTER, self._descriptor)
        try:
            self._map(entries, params)
        except BaseException:
            self.close()
            raise

    def _map(self, entries: int, params: bytes) -> None:
        requests, completions = struct.unpack_from("II", params)
        head, tail, _, _, _, _, slots, _ = struct.unpack_from("8I", params, 40)
        done_head, done_tail, _, _, _, done, _, _ = struct.unpack_from("8I", params, 80)
        # How many sends one call takes.
        self.entries: int = min(entries, requests)
        self._requests, self._completions = requests, completions

        def mapped(offset: int, size: int) -> mmap.mmap:
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            return mmap.mmap(self._descriptor, size, flags, offset=offset)

        queue = memoryview(mapped(0, slots + 4 * requests)).cast("I")
        self._head, self._tail = queue[head // 4 :][:1], queue[tail // 4 :][:1]
        # Which request stands in which slot of the queue. A batch's are always the first ones, so
        # that their layout is the same wherever the queue has come to.
        self._slots = queue[slots // 4 :][:requests]
        self._order = array("I", range(requests))
        results = memoryview(mapped(_OFFSET_COMPLETIONS, done + _CQE_BYTES * completions))
        self._done_head = results.cast("I")[done_head // 4 :][:1]
        self._done_tail = results.cast("I")[done_tail // 4 :][:1]
        entry = results[done : done + _CQE_BYTES * completions]
        self._done_index, self._result = entry.cast("Q")[::2], entry.cast("i")[2::4]
        request = memoryview(mapped(_OFFSET_REQUESTS, _SQE_BYTES * requests))
        for n in range(requests):
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            struct.pack_into(
                "=BBHiQQIIQ", request, n * _SQE_BYTES, _OP_SEND, 0, 0, -1, 0, 0, 0, flags, n
            )
        # The fields that differ from request to request, each as one strided column.
        self._fd = request.cast("i")[1::16]
        self._address = request.cast("Q")[2::8]
        self._length = request.cast("i")[6::16]

    def _set_up(self, entries: int) -> tuple[int, bytes]:
        for flags in _FLAGS:
            params = self._ctypes.create_string_buffer(_PARAMS_BYTES)
            struct.pack_into("I", params, 8, flags)
            descriptor = self._set_up_call(_SETUP, entries, params)
            if descriptor >= 0:
                return descriptor, params.raw
        code = self._ctypes.get_errno()
        raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Give the ring back. Nothing may be done with it afterwards."""
        os.close(self._descriptor)
        # Each mapping holds a descriptor of its own, until nobody refers to it.
        vars(self).clear()

    def send(
        self, fds: Sequence[int], data: bytes, runs: Sequence[Run], step: int | None = None
    ) -> Refused:
        """Send to each of these descriptors, at most `entries`, what `runs` say of `data`.

        A call is not interrupted for another thread that wants the core or the interpreter: with
        `step` there are several, of so many sends each.
        """
        at = self._address_of(data)
        addresses, sizes = array("Q"), array("i")
        for run in runs:
            if isinstance(run, Alike):
                addresses += array("Q", (at,)) * run.times
                sizes += array("i", (run.size,)) * run.times
                at += run.size
            else:
                addresses.extend(itertools.accumulate(run[:-1], initial=at))
                sizes.extend(run)
                at += sum(run)
        self._address[: len(fds)] = addresses
        return self._submit(fds, sizes, step or len(fds))

    def _address_of(self, data: bytes) -> int:
        return int(self._ctypes.cast(self._ctypes.c_char_p(data), self._ctypes.c_void_p).value or 0)

    def _submit(self, fds: Sequence[int], sizes: "array[int]", step: int) -> Refused:
        count = len(fds)
        self._fd[:count], self._length[:count] = array("i", fds), sizes
        tail, mask = self._tail[0], self._requests - 1
        begin = tail & mask
        fit = min(count, self._requests - begin)
        self._slots[begin : begin + fit] = self._order[:fit]
        self._slots[: count - fit] = self._order[fit:count]
        self._tail[0] = (tail + count) & _WRAP
        for done in range(0, count, step):
            end = min(done + step, count)
            many = end - done
            # With fewer it has not waited, and the next call would wait for them for ever.
            if self._enter_call(*self._enter, many, end, _ENTER_GETEVENTS, None, 0) != many:
                break
            if end < count:
                self._yield()
        taken = (self._head[0] - tail) & _WRAP
        if taken != count:
            # Short of memory, say: what the kernel has not looked at is taken back.
            self._tail[0] = self._head[0]
        return self._outcome(taken, sizes)

    def _outcome(self, taken: int, sizes: "array[int]") -> Refused:
        head = self._done_head[0]
        begin = head & (self._completions - 1)
        fit = min(taken, self._completions - begin)
        results = array("i", self._result[begin : begin + fit])
        results.extend(self._result[: taken - fit])
        refused: Refused = []
        if results != sizes:
            refused = [(n, 0) for n in range(taken, len(sizes))]
            for place, result in enumerate(results):
                index = self._done_index[(begin + place) & (self._completions - 1)]
                if result != sizes[index]:
                    refused.append((index, 0 if result in _TRY_LATER else max(result, -1)))
        self._done_head[0] = (head + taken) & _WRAP
        return refused


def open_ring(wanted: bool | None, entries: int) -> Ring | None:
    """A ring that has been tried out, or None (the log says why); `wanted` None: if all is well.

    A seccomp filter may kill a process for asking, so with one in force a child asks first.
    """
    if wanted is False:
        return None
    try:
        if not sys.platform.startswith("linux"):
            raise OSError(errno.ENOSYS, f"not on {sys.platform}")
        if not may_ask_for_io_uring():
            raise OSError(errno.EPERM, "a seccomp filter kills who asks")
        ring = Ring(entries)
        try:
            _try_out(ring)
        except OSError:
            ring.close()
            raise
    except (OSError, MemoryError, ImportError) as fault:
        level = logging.INFO if wanted is None else logging.WARNING
        _logger.log(level, "no io_uring, changes go out socket by socket: %s", fault)
        return None
    _logger.info("changes go out through io_uring")
    return ring


def _try_out(ring: Ring) -> None:
    """Raises OSError when a send does not arrive."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        refused = ring.send((ours.fileno(),), b"?", [[1]])
        if refused or theirs.recv(2, socket.MSG_DONTWAIT) != b"?":
            raise OSError(errno.ENOSYS, "it does not send")
