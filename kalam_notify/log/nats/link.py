"""The stream's API, asked over the line there is. Each call is one attempt."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kalam_notify.config.nats_place import NatsPlace, parse_place
from kalam_notify.log.nats.connection import Received
from kalam_notify.log.nats.faults import NoAnswer, NoStream, Refused, TooLarge
from kalam_notify.log.nats.line import ASK_SECONDS, Line, Subscription
from kalam_notify.log.nats.stream import (
    NAME_IN_USE,
    PubAck,
    StreamInfo,
    StreamMessage,
    check_config,
    is_no_message,
    raise_error,
    stored_message,
    stream_info,
    wanted_config,
)

__all__ = [
    "Link",
    "NatsPlace",
    "PubAck",
    "Received",
    "StreamInfo",
    "StreamMessage",
    "Subscription",
    "parse_place",
]

FORMAT = "1"
_HEADER_LINE = len(b"NATS/1.0\r\n\r\n")

_logger = logging.getLogger(__name__)


class Link(Line):
    """A stream on the servers of a place; see Line for what is not said here.

    `create`, `replicas` and `max_age` (seconds; None: for ever) are for `ensure_stream`.
    """

    def __init__(
        self,
        place: NatsPlace,
        *,
        replicas: int = 1,
        create: bool = True,
        max_age: float | None = None,
        credentials: Path | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        name: str = "kalam-notify",
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            place,
            credentials=credentials,
            ca=ca,
            cert=cert,
            key=key,
            name=name,
            on_up=on_up,
            on_down=on_down,
        )
        self.stream = place.stream
        self._wanted = wanted_config(place.stream, replicas, max_age)
        self._create = create

    async def info(self, timeout: float = ASK_SECONDS) -> StreamInfo:
        """The stream as its leader sees it; raises NoAnswer, NoStream, Refused."""
        return stream_info(await self._api("STREAM.INFO", b"", timeout))

    async def ensure_stream(self, timeout: float = 10.0) -> StreamInfo:
        """The stream, made where it is absent and `create` says so.

        Raises WrongStream where it is there and cannot hold a log; NoStream, NoAnswer, Refused.
        """
        try:
            return self._checked(await self.info(timeout))
        except NoStream:
            if not self._create:
                raise
        try:
            body = msgspec.json.encode(self._wanted)
            return self._checked(stream_info(await self._api("STREAM.CREATE", body, timeout)))
        except Refused as fault:
            # Another node was quicker, with more replicas perhaps.
            if fault.code != NAME_IN_USE:
                raise
        return self._checked(await self.info(timeout))

    def _checked(self, info: StreamInfo) -> StreamInfo:
        check_config(info.config, self._wanted)
        has, wanted = info.config.get("num_replicas"), self._wanted["num_replicas"]
        if has != wanted:
            _logger.warning(
                "stream %s has %s replicas, log.nats.replicas says %s: it stays as it is",
                self.stream,
                has,
                wanted,
            )
        return info

    async def message(self, seq: int, timeout: float = ASK_SECONDS) -> StreamMessage | None:
        """A message as the stream's leader has it; None where there is none of this sequence."""
        answer = await self._ask("STREAM.MSG.GET", b'{"seq":%d}' % seq, timeout)
        if is_no_message(answer):
            return None
        raise_error(answer, self.stream)
        return stored_message(answer)

    async def publish(
        self,
        payload: bytes,
        mid: str,
        *,
        headers: Mapping[str, str] | None = None,
        expected_last_seq: int | None = None,
        timeout: float = 1.0,
    ) -> PubAck:
        """Put a message into the stream, once: tried again under the same `mid` it is known.

        Raises NoAnswer, WrongLast, TooLarge, Refused.
        """
        head = {"Kalam-Format": FORMAT, "Kalam-Mid": mid, "Nats-Msg-Id": mid, **(headers or {})}
        if expected_last_seq is not None:
            head["Nats-Expected-Last-Sequence"] = str(expected_last_seq)
        size = len(payload) + _HEADER_LINE
        size += sum(len(name.encode()) + len(value.encode()) + 4 for name, value in head.items())
        if size > self.max_payload:
            raise TooLarge(size, self.max_payload)
        answer = _decode(await self.request(f"{self.stream}.log", payload, timeout, headers=head))
        raise_error(answer, self.stream)
        return PubAck(answer["seq"], answer.get("duplicate", False))

    async def _api(self, verb: str, body: bytes, timeout: float) -> Mapping[str, Any]:
        answer = await self._ask(verb, body, timeout)
        raise_error(answer, self.stream)
        return answer

    async def _ask(self, verb: str, body: bytes, timeout: float) -> Mapping[str, Any]:
        return _decode(await self.request(f"$JS.API.{verb}.{self.stream}", body, timeout))


def _decode(answer: Received) -> Mapping[str, Any]:
    try:
        decoded: Mapping[str, Any] = msgspec.json.decode(answer.data, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise NoAnswer(f"an answer of NATS cannot be read: {fault}") from fault
    return decoded
