"""The connection of a long poll by itself, and what an address asks for."""

from urllib.parse import urlencode

import pytest

from kalam_notify.delivery.payload import FrameSet
from kalam_notify.errors import SubscriptionRefused
from kalam_notify.model import ANONYMOUS
from kalam_notify.protocol import close, messages
from kalam_notify.protocol.events import Events
from kalam_notify.protocol.messages import change_head, framed
from kalam_notify.sockets.asked import asked, cors_headers, takes_gzip
from kalam_notify.sockets.poll import Poll
from kalam_notify.subscriptions.plans import NO_FD

HEAD = change_head("s", Events.PLAIN)


def change(seq: int, size: int = 10) -> bytes:
    body = b'"rows":[{"pad":"%b"}]}' % (b"x" * size)
    return FrameSet([body], 1, [seq]).for_head(HEAD)


def test_it_keeps_messages_and_the_position_they_bring_it_to() -> None:
    poll = Poll(ANONYMOUS, "192.0.2.1", 1000)
    poll.send_frames(framed(b'{"type":"subscription_ack"}', Events.PLAIN))
    assert poll.wake.is_set()
    assert not poll.has_changes
    assert poll.taken() == [b'{"type":"subscription_ack"}']
    assert poll.position is None
    assert poll.offer(change(7))
    assert poll.offer(change(9))
    assert poll.has_changes
    assert len(poll.taken()) == 2
    assert (poll.position, poll.waiting, poll.taken()) == (9, 0, [])


def test_beyond_its_bound_it_takes_no_more_and_its_position_stays() -> None:
    one = change(1)
    poll = Poll(ANONYMOUS, "192.0.2.1", 2 * len(one))
    assert poll.offer(one)
    assert poll.offer(change(2))
    assert not poll.offer(change(3))
    assert not poll.has_room
    assert len(poll.taken()) == 2
    assert poll.position == 2


def test_a_single_message_beyond_the_bound_is_taken() -> None:
    poll = Poll(ANONYMOUS, "192.0.2.1", 10)
    assert poll.offer(change(1, 5000))
    assert not poll.offer(change(2))


def test_it_is_woken_when_its_subscription_is_level_refused_or_ended() -> None:
    poll = Poll(ANONYMOUS, "192.0.2.1", 10)
    assert poll.direct_fd == NO_FD
    assert poll.wake.is_set()
    poll.wake.clear()
    poll.send(messages.error("s", "RESUME_EXPIRED", "gone"))
    assert poll.error == ("RESUME_EXPIRED", "gone")
    assert poll.wake.is_set()
    poll.wake.clear()
    poll.end(close.SHUTTING_DOWN)
    poll.end(close.NORMAL)
    assert poll.ended is close.SHUTTING_DOWN
    assert poll.wake.is_set()
    assert not poll.has_room


def test_an_address_asks_for_a_subscription() -> None:
    query = urlencode({"sql": "SELECT 1 + 2", "params": "[7]", "batch_size": 5, "from": "9"})
    request = asked(query)
    assert (request.sql, request.params) == ("SELECT 1 + 2", [7])
    assert request.options == {"batch_size": 5, "from": "9"}
    again = asked(query, "12").options
    assert again is not None
    assert again["from"] == "12"
    assert asked("sql=x").options == {}
    assert asked("sql=x&snapshot=false").options is None
    assert asked("sql=x&snapshot=false&last_rows=0").options == {"last_rows": 0}
    assert asked("sql=x&id=q7").id == "q7"


@pytest.mark.parametrize("query", ["", "sql=", "sql=x&params={}", "sql=x&params=[", "a=1&" * 99])
def test_an_address_that_asks_for_nothing_is_refused(query: str) -> None:
    with pytest.raises(SubscriptionRefused):
        asked(query)


def test_gzip_is_sent_to_those_who_take_it() -> None:
    assert takes_gzip(["br, gzip;q=0.5"])
    assert takes_gzip(["deflate", "X-GZIP"])
    assert not takes_gzip([])
    assert not takes_gzip(["gzip;q=0, br"])
    assert not takes_gzip(["gzip; q=0.0"])
    assert not takes_gzip(["gzipped"])


def test_an_origin_is_not_echoed_where_it_could_end_its_header() -> None:
    assert cors_headers("https://a.example")["access-control-allow-origin"] == "https://a.example"
    assert cors_headers("https://a.example\r\nset-cookie: x") == {}
    assert cors_headers(None) == {}
