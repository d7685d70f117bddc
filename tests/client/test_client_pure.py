"""The client without its socket: cursor, view, following, back-off, addresses."""

from typing import Any

import pytest
from fake_server import control, row

from kalam_notify.client import Backoff, Cursor, View
from kalam_notify.client.address import BadAddress, http_url, websocket_url
from kalam_notify.client.credentials import BadCredential, clean
from kalam_notify.client.cursor import seq_of
from kalam_notify.client.events import Acknowledged, Changed, Event, Loaded
from kalam_notify.client.following import Following, Phase


def began(replaces: bool = True, complete: bool = False, key: tuple[str, ...] = ("id",)) -> Event:
    return Acknowledged(replaces, complete, key, {})


def loaded(*rows: dict[str, Any], ready: bool = True) -> Event:
    return Loaded(rows, ready, {})


def changed(kind: Any, rows: Any = (), old: Any = (), transition: Any = None) -> Event:
    return Changed(kind, rows, old, transition, {})


def view_of(*events: Event, primary_key: tuple[str, ...] | None = None) -> View:
    view = View(primary_key)
    for event in events:
        view.apply(event)
    return view


class TestView:
    def test_a_snapshot_fills_it(self) -> None:
        view = view_of(began(), loaded(row(1, 5), ready=False), loaded(row("1", 6)))
        assert len(view) == 2
        assert view[1]["_seq"] == "5"
        assert view["1"]["_seq"] == "6"
        assert view.ready

    def test_it_is_not_ready_before_its_last_page(self) -> None:
        assert not view_of(began()).ready
        assert not view_of(began(), loaded(ready=False)).ready
        assert view_of(began(complete=True)).ready

    def test_changes_of_several_rows_are_applied(self) -> None:
        view = view_of(
            began(),
            loaded(),
            changed("insert", [row(1, 1), row(2, 2), row(3, 3)]),
            changed("update", [row(1, 4, a=1), row(2, 5, a=2)], [row(1, 1), row(2, 2)]),
            changed("delete", old=[row(1, 6), row(3, 7)]),
        )
        assert view.rows() == [row(2, 5, a=2)]

    def test_rows_enter_and_leave(self) -> None:
        entered = [began(), loaded(), changed("insert", [row(1, 1)], transition="enter")]
        assert 1 in view_of(*entered)
        left = changed("delete", old=[row(1, 2)], transition="leave")
        assert 1 not in view_of(*entered, left)

    def test_an_update_of_a_row_not_seen_yet_brings_it(self) -> None:
        view = view_of(began(), loaded(), changed("update", [row(1, 9)], [row(1, 3)]))
        assert view.get(1) == row(1, 9)

    def test_a_delete_of_a_row_not_seen_is_nothing(self) -> None:
        assert len(view_of(began(), loaded(), changed("delete", old=[row(1, 9)]))) == 0

    def test_a_resumed_subscription_keeps_it_and_another_start_empties_it(self) -> None:
        before = [began(), loaded(row(1, 1))]
        assert len(view_of(*before, began(replaces=False))) == 1
        restarted = view_of(*before, began(), loaded(row(2, 2), ready=False))
        assert restarted.rows() == [row(2, 2)]
        assert not restarted.ready

    def test_a_key_may_have_several_columns(self) -> None:
        view = view_of(began(key=("a", "b")), loaded({"a": 1, "b": 2}, {"a": 1, "b": 3}))
        assert view[(1, 3)] == {"a": 1, "b": 3}

    def test_the_readers_own_key_wins_over_the_schema(self) -> None:
        view = view_of(began(), loaded({"id": 1, "k": "x"}), primary_key=("k",))
        assert "x" in view

    def test_without_a_key_rows_are_listed(self) -> None:
        view = view_of(
            began(key=(), complete=True),
            changed("insert", [{"a": 1}, {"a": 1}]),
            changed("update", [{"a": 2}], [{"a": 1}]),
            changed("delete", old=[{"a": 1}]),
        )
        assert view.rows() == [{"a": 1}, {"a": 1}, {"a": 2}]


class TestCursor:
    def test_it_moves_forward_only(self) -> None:
        cursor = Cursor()
        assert cursor.advance(5)
        assert not cursor.advance(5)
        assert not cursor.advance(4)
        assert cursor.advance(6)
        assert cursor.position == 6

    def test_what_has_no_seq_is_news_and_moves_nothing(self) -> None:
        cursor = Cursor(3)
        assert cursor.advance(None)
        assert cursor.position == 3

    @pytest.mark.parametrize(
        ("seq", "expected"),
        [("9007199254740991", 9007199254740991), (7, 7), ("x", None), (True, None), (None, None)],
    )
    def test_seqs_are_decimal_strings(self, seq: object, expected: int | None) -> None:
        assert seq_of({"_seq": seq}) == expected
        assert seq_of({}) is None


def ack(last_seq: int, resumed: bool | None = None, has_more: bool = False) -> dict[str, Any]:
    message = {"type": "subscription_ack", "batch_control": control(last_seq, has_more)}
    return message if resumed is None else {**message, "resumed": resumed}


def page(last_seq: int, *rows: dict[str, Any], has_more: bool = False) -> dict[str, Any]:
    return {
        "type": "initial_data_batch",
        "rows": rows,
        "batch_control": control(last_seq, has_more),
    }


def change(kind: str, rows: Any = None, old: Any = None) -> dict[str, Any]:
    return {"type": "change", "change_type": kind, "rows": rows, "old_values": old}


def following(options: dict[str, Any] | None, *messages: dict[str, Any]) -> Following:
    subject = Following("q", "SELECT * FROM a.b", options)
    subject.request()
    for message in messages:
        subject.receive(message)
    return subject


def options_asked(subject: Following) -> Any:
    options = subject.request()["subscription"]["options"]
    if options is None:
        return None
    assert options["on_gap"] == "snapshot"
    return {name: value for name, value in options.items() if name != "on_gap"}


class TestFollowing:
    def test_the_first_request_asks_for_what_was_wanted(self) -> None:
        assert options_asked(Following("q", "s", None)) is None
        assert options_asked(Following("q", "s", {})) == {}
        assert options_asked(Following("q", "s", {"last_rows": 3})) == {"last_rows": 3}
        assert options_asked(Following("q", "s", {"from": "7", "batch_size": 2})) == {
            "from": 7,
            "batch_size": 2,
        }

    def test_live_only_resumes_from_its_acknowledgement(self) -> None:
        assert options_asked(following(None, ack(10))) == {"from": 10}

    def test_the_acknowledgement_of_a_snapshot_is_not_yet_its_rows(self) -> None:
        assert options_asked(following({}, ack(10))) == {}
        assert options_asked(following({"batch_size": 2}, ack(10, has_more=True))) == {
            "batch_size": 2
        }

    def test_half_a_snapshot_resumes_after_its_last_row(self) -> None:
        half = following(
            {"batch_size": 2}, ack(4, has_more=True), page(4, row(1, 4), has_more=True)
        )
        assert options_asked(half) == {"batch_size": 2, "from": 4}

    def test_a_whole_snapshot_resumes_from_where_it_went_live(self) -> None:
        assert options_asked(following({}, ack(9), page(9, row(1, 4)))) == {"from": 9}

    def test_last_rows_are_asked_for_once(self) -> None:
        assert options_asked(following({"last_rows": 1}, ack(9), page(9))) == {"from": 9}

    def test_every_seq_seen_counts_that_of_a_delete_too(self) -> None:
        begun = (ack(9), page(9))
        assert options_asked(following({}, *begun, change("insert", [row(1, 11)]))) == {"from": 11}
        updated = change("update", [row(1, 12), row(2, 13)], [row(1, 3), row(2, 4)])
        assert options_asked(following({}, *begun, updated)) == {"from": 13}
        assert options_asked(following({}, *begun, change("delete", old=[row(1, 14)]))) == {
            "from": 14
        }

    def test_a_log_that_does_not_reach_back_starts_over(self) -> None:
        subject = following({}, ack(100), page(100))
        subject.request()
        event, _ = subject.receive(ack(5, resumed=False, has_more=True))
        assert isinstance(event, Acknowledged)
        assert event.replaces
        assert subject.cursor.position is None
        event, answer = subject.receive(page(3, row(1, 3), has_more=True))
        assert isinstance(event, Loaded)
        assert len(event.rows) == 1
        assert answer == {"type": "next_batch", "subscription_id": "q", "last_seq_id": 3}

    def test_one_whose_history_is_gone_is_asked_for_from_the_start(self) -> None:
        subject = Following("q", "SELECT 1", None)
        subject.request()
        subject.receive(ack(9))
        assert subject.cursor.position == 9
        assert subject.expired()
        assert subject.phase is Phase.IDLE
        assert options_asked(subject) is None

    def test_one_that_asked_to_be_told_of_a_gap_is_told(self) -> None:
        subject = Following("q", "SELECT 1", {"from": 3, "on_gap": "error"})
        assert subject.request()["subscription"]["options"] == {"on_gap": "error", "from": 3}
        assert not subject.expired()

    def test_a_resumed_one_goes_on(self) -> None:
        subject = following({"from": 5})
        event, _ = subject.receive(ack(5, resumed=True))
        assert isinstance(event, Acknowledged)
        assert not event.replaces
        assert subject.cursor.position == 5

    def test_what_has_been_seen_is_dropped(self) -> None:
        subject = following({}, ack(9), page(9))
        subject.receive(change("insert", [row(1, 10)]))
        assert subject.receive(change("insert", [row(1, 10)])) == (None, None)
        event, _ = subject.receive(
            change("update", [row(1, 10), row(2, 11)], [row(1, 1), row(2, 2)])
        )
        assert isinstance(event, Changed)
        assert event.rows == [row(2, 11)]
        assert event.old_values == [row(2, 2)]

    def test_a_page_sent_twice_brings_its_rows_once(self) -> None:
        subject = following({}, ack(4, has_more=True), page(4, row(1, 4), has_more=True))
        event, _ = subject.receive(page(4, row(1, 4), has_more=True))
        assert isinstance(event, Loaded)
        assert event.rows == []

    def test_before_the_acknowledgement_everything_is_of_the_old_one(self) -> None:
        subject = following(None)
        assert subject.receive(change("insert", [row(1, 50)])) == (None, None)
        subject.receive(ack(10))
        assert subject.receive(change("insert", [row(1, 50)])).event is not None

    def test_a_paused_one_takes_nothing_until_it_asks_again(self) -> None:
        subject = following({}, ack(9), page(9))
        subject.pause()
        assert subject.receive(change("insert", [row(1, 10)])) == (None, None)
        assert options_asked(subject) == {"from": 9}

    def test_a_second_acknowledgement_of_a_live_one_is_followed_by_a_resume(self) -> None:
        subject = following(None, ack(10))
        event, answer = subject.receive(ack(15))
        assert event is None
        assert answer is not None
        assert answer["subscription"]["options"] == {"on_gap": "snapshot", "from": 10}
        assert subject.phase is Phase.REQUESTED

    def test_a_second_acknowledgement_of_a_snapshot_starts_over(self) -> None:
        subject = following({}, ack(10), page(10, row(1, 3)))
        assert subject.receive(ack(15)).event is not None
        event, _ = subject.receive(page(15, row(1, 3)))
        assert isinstance(event, Loaded)
        assert len(event.rows) == 1


class TestBackoff:
    def test_bounds_double_up_to_the_cap(self) -> None:
        backoff = Backoff(base=1, cap=10, uniform=lambda low, high: high)
        assert [backoff.next_delay() for _ in range(6)] == [1, 2, 4, 8, 10, 10]

    def test_jitter_is_full(self) -> None:
        assert Backoff(base=1, uniform=lambda low, high: low).next_delay() == 0

    def test_a_pause_comes_on_top(self) -> None:
        backoff = Backoff(base=1, pause=5, uniform=lambda low, high: high)
        assert backoff.next_delay(after_a_pause=True) == 6

    def test_a_connection_that_held_starts_the_count_anew(self) -> None:
        backoff = Backoff(base=1, uniform=lambda low, high: high)
        backoff.next_delay()
        backoff.reset()
        assert backoff.next_delay() == 1


class TestAddress:
    @pytest.mark.parametrize(
        ("base", "http", "websocket"),
        [
            ("http://h:1", "http://h:1/p", "ws://h:1/v1/ws"),
            ("ws://h:1/", "http://h:1/p", "ws://h:1/v1/ws"),
            ("https://h", "https://h/p", "wss://h/v1/ws"),
            ("wss://[::1]:2900/v1/ws", "https://[::1]:2900/p", "wss://[::1]:2900/v1/ws"),
            ("localhost:2900", "http://localhost:2900/p", "ws://localhost:2900/v1/ws"),
            (" [::1]:2900\n", "http://[::1]:2900/p", "ws://[::1]:2900/v1/ws"),
            ("http://h/notify/", "http://h/notify/p", "ws://h/notify/v1/ws"),
        ],
    )
    def test_four_schemes_lead_to_both(self, base: str, http: str, websocket: str) -> None:
        assert http_url(base, "/p") == http
        assert websocket_url(base) == websocket

    @pytest.mark.parametrize(
        "base",
        ["", "nonsense", "ftp://h", "http://", "http://h:x", "h:x", ":1", "http://u:hunter2@h:x"],
    )
    def test_other_addresses_are_refused(self, base: str) -> None:
        with pytest.raises(BadAddress) as refused:
            websocket_url(base)
        assert "hunter2" not in str(refused.value)


class TestCredentials:
    @pytest.mark.parametrize("spoiled", ["{}", "{}\n", " {}\r\n", "\ufeff{}", "\t{}\u00a0"])
    def test_what_surrounds_a_credential_is_no_part_of_it(self, spoiled: str) -> None:
        assert clean(spoiled.format("abc.def"), "token") == "abc.def"

    @pytest.mark.parametrize("bad", ["", " ", "\n", "hunter2\nx", "hunter2 x", "hunter2é", "h\x00"])
    def test_what_no_header_can_carry_is_refused_without_being_shown(self, bad: str) -> None:
        with pytest.raises(BadCredential, match="the API key ") as refused:
            clean(bad, "API key")
        assert "hunter2" not in str(refused.value)
