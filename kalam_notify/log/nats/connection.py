"""One connection to one NATS server, from its greeting until it is lost. All of nats-py is here.

nats-py (2.16) speaks the protocol, and more than that is left aside, after trouble with it:

- it does not reconnect. Its own way back waits for a connection to close in good order, which one
  to a server that hangs never does while something is left to write; it ends for good at most
  errors that a server tells; and it sends what was published before to the next server, long after
  whoever published it has given up. So a connection that is lost is dropped here, with all that it
  held, and whoever needs another makes one.
- it does not wait for pongs of our own: one that comes after its wait has ended stops the reading.
- it does not carry messages through a queue and a task of each subscription: they go to the
  callback at once, at a third of the price, and none is thrown away because it is slow.
- it sends passwords only over TLS where the URL says `tls:`.

That takes parts that nats-py calls private: `_process_op_err`, `_process_err`, `_process_info`,
`_process_msg`, `_send_command`, `_flush_pending`, its tasks and its transport. tests/cluster
notices when they change.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.protocol.command import sub_cmd, unsub_cmd

from kalam_notify.config.nats_place import shown_url, sign_in
from kalam_notify.log.nats.credentials import Security
from kalam_notify.log.nats.faults import NoAnswer
from kalam_notify.log.nats.stream import headers_of

CONNECT_SECONDS = 2.0
PING_SECONDS = 1.5
"""Two pongs that do not come: a server that hangs is given up after 3 to 4.5 s."""
MAX_PINGS = 2

_logger = logging.getLogger(__name__)


class Received(NamedTuple):
    """A message as it came; `reply` is empty where no answer is wanted."""

    subject: str
    reply: str
    headers: dict[str, str] | None
    data: bytes


OnMessage = Callable[[Received], None]


class Connection(Client):
    """`on_lost` is called once, with the reason, after `open` has returned."""

    def __init__(self, server: str, on_lost: Callable[["Connection", str], None]) -> None:
        super().__init__()
        self.server = server
        self._on_lost = on_lost
        self._is_open = self._is_lost = self._leaves_lame_ducks = False
        self._callbacks: dict[int, OnMessage] = {}
        self._last_error: BaseException | None = None

    async def open(self, name: str, security: Security, *, leaves_lame_ducks: bool) -> None:
        """Connect and sign in, within seconds; raises NoAnswer.

        With `leaves_lame_ducks` a server that is about to end is left as soon as it says so.
        """
        self._leaves_lame_ducks = leaves_lame_ducks
        # nats-py would not decode them.
        user, password, token = sign_in(self.server)
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                await self.connect(
                    [shown_url(self.server)],
                    name=name,
                    user=user,
                    password=password,
                    token=token,
                    allow_reconnect=False,
                    connect_timeout=CONNECT_SECONDS,  # type: ignore[arg-type] # any number
                    # The same server once more, then NoServersError.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=PING_SECONDS,  # type: ignore[arg-type]
                    max_outstanding_pings=MAX_PINGS,
                    pending_size=0,
                    error_cb=self._note_error,
                    tls=security.context,
                    user_jwt_cb=security.jwt,
                    signature_cb=security.sign,
                )
                self._is_open = True
        except (OSError, nats.errors.Error) as fault:
            self.drop()
            reason = fault if self._last_error is None else self._last_error
            raise NoAnswer(f"{shown_url(self.server)}: {_words(reason)}", was_sent=False) from fault
        except BaseException:
            self.drop()
            raise

    async def confirm(self) -> None:
        """Return when the server has dealt with all that was sent to it; else raise TimeoutError.

        It is to be dropped then: see above.
        """
        try:
            await self.flush(timeout=CONNECT_SECONDS)  # type: ignore[arg-type]
        except nats.errors.Error as fault:
            raise TimeoutError(_words(fault)) from fault

    def drop(self) -> None:
        """Have done with it at once, and with everything that it has not sent."""
        self._is_lost = True
        self._callbacks.clear()
        self._pending.clear()
        self._pending_data_size = 0
        self._status = Client.CLOSED
        tasks = (self._reading_task, self._ping_interval_task, self._flusher_task)
        for task in (*tasks, self._reconnection_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if self._transport is not None:
            for name in ("_io_writer", "_bare_io_writer"):
                writer: asyncio.StreamWriter | None = getattr(self._transport, name, None)
                if writer is not None:
                    writer.transport.abort()

    async def finish(self) -> None:
        """Send what is left, within a second, and drop it."""
        if self.is_connected:
            with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
                async with asyncio.timeout(1):
                    await self.flush(timeout=CONNECT_SECONDS)  # type: ignore[arg-type]
        self.drop()

    def register(self, callback: OnMessage) -> int:
        """A number for `listen`; `callback` is called with every message under it."""
        self._sid += 1
        self._callbacks[self._sid] = callback
        return self._sid

    async def listen(self, number: int, subject: str, queue: str = "") -> None:
        """Have the messages to a subject sent under a number."""
        await self._send_command(sub_cmd(subject, queue, number))
        await self._flush_pending()

    async def stop_listening(self, number: int) -> None:
        if self._callbacks.pop(number, None) is not None:
            await self._send_command(unsub_cmd(number, 0))
            await self._flush_pending()

    async def send(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish; raises NoAnswer where the connection is lost."""
        try:
            await self.publish(subject, data, reply, dict(headers) if headers else None)
        except (OSError, nats.errors.Error) as fault:
            raise NoAnswer(_words(fault), was_sent=False) from fault

    # -- what nats-py calls ----------------------------------------------------------------------

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        callback = self._callbacks.get(sid)
        if callback is not None:
            parsed = headers_of(headers) if headers else None
            try:
                callback(Received(subject.decode(), reply.decode(), parsed, data))
            except Exception:
                _logger.exception("a message on %s could not be taken in", subject.decode())

    async def _process_op_err(self, e: BaseException) -> None:
        self._lose(_words(e))

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            # Of one subject; the connection stays.
            _logger.error("%s: %s", shown_url(self.server), err_msg)
            return
        self._lose(err_msg.strip("'"))

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.server.startswith("tls:") and not info.get("tls_required"):
            raise nats.errors.Error("it does not ask for TLS, and is told nothing without")
        await super()._process_info(info, initial_connection)
        if not initial_connection and info.get("ldm") and self._leaves_lame_ducks:
            self._lose("it is about to end")

    async def _note_error(self, fault: Exception) -> None:
        self._last_error = fault

    def _lose(self, reason: str) -> None:
        if not self._is_lost and self._is_open:
            self._is_lost = True
            self._on_lost(self, reason)


def _words(fault: BaseException) -> str:
    return str(fault).removeprefix("nats: ") or type(fault).__name__
