"""Long polls of a real server: every answer leads on to the next, and together they are exact."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from events_kit import plain, poll
from helpers.server import Server, delete, insert, running_server
from helpers.views import View

OPEN: dict[str, Any] = {"auth": {"anonymous": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("polls"), OPEN) as it:
        yield it


@pytest.fixture(autouse=True)
def no_orders(server: Server) -> None:
    server.post({"table": "app.orders", "change_type": "truncate"})


def orders(*keys: int, **values: Any) -> list[dict[str, Any]]:
    return [insert("app.orders", {"id": key, **values}) for key in keys]


@pytest.mark.parametrize("batch_size", [3, 1000])
def test_without_a_position_it_is_the_snapshot(server: Server, batch_size: int) -> None:
    server.post(*orders(*range(10)))
    view = View()
    answer = poll(server, batch_size=batch_size)
    for message in answer.json["messages"]:
        view.apply(message)
    assert sorted(plain(view)) == list(range(10))
    assert answer.headers["etag"].startswith(f'"{answer.json["position"]}-')
    assert answer.headers["content-type"] == "application/json"


def test_an_empty_table_answers_at_once(server: Server) -> None:
    assert poll(server).json["messages"][-1]["rows"] == []


def test_whoever_is_behind_is_answered_at_once(server: Server) -> None:
    answer, view = poll(server).json, View()
    for message in answer["messages"]:
        view.apply(message)
    server.post(*orders(1, 2))
    server.post(delete("app.orders", {"id": 1}))
    told = [answer]
    while told:
        answer = poll(server, **{"from": answer["position"], "wait": 0}).json
        told = answer["messages"][2:]
        for message in told:
            view.apply(message)
    assert sorted(plain(view)) == [2]


def test_whoever_is_level_is_answered_when_something_changes(server: Server) -> None:
    position = poll(server).json["position"]
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(poll(server, **{"from": position})))
    asking.start()
    while server.metric("subscriptions", scope="shared") == 0:
        server.post(insert("app.vault", {"id": 1}))
    server.post(*orders(5))
    asking.join(30)
    assert [row["id"] for row in answers[0].json["messages"][-1]["rows"]] == [5]
    assert answers[0].json["position"] > position


def test_where_nothing_changes_the_answer_is_empty_and_its_position_goes_on(
    server: Server,
) -> None:
    first = poll(server, sql="SELECT * FROM app.orders WHERE v = 1").json["position"]
    server.post(*orders(1, 2, 3, v=2))
    began = time.monotonic()
    answer = poll(server, sql="SELECT * FROM app.orders WHERE v = 1", wait=1, **{"from": first})
    assert time.monotonic() - began >= 1
    assert [message["type"] for message in answer.json["messages"]] == [
        "subscription_ack",
        "initial_data_batch",
    ]
    assert answer.json["position"] >= first


def test_an_answer_of_the_same_position_is_known(server: Server) -> None:
    server.post(*orders(1))
    answer = poll(server)
    tag, position = answer.headers["etag"], answer.json["position"]
    assert poll(server, {"If-None-Match": tag}).status == 304
    known = poll(server, {"If-None-Match": tag}, wait=0, **{"from": position})
    assert (known.status, known.body) == (304, b"")
    server.post(*orders(2))
    assert poll(server, {"If-None-Match": tag}).status == 200
    changed = poll(server, {"If-None-Match": tag}, **{"from": position})
    assert (changed.status, changed.headers["etag"]) != (304, tag)


def test_an_answer_to_another_question_is_not_known(server: Server) -> None:
    """Of the same position: what the URL asks for, or a policy makes of it, is not the same."""
    server.post(*orders(1, v=1))
    tags = set[str]()
    for sql in ("*", "id", "v"):
        for where in ("", "WHERE v = 1", "WHERE v = 2"):
            asked = f"SELECT {sql} FROM app.orders {where}"
            answer = poll(server, {"If-None-Match": ", ".join(tags)}, sql=asked)
            assert answer.status == 200
            tags.add(answer.headers["etag"])
            assert poll(server, {"If-None-Match": ", ".join(tags)}, sql=asked).status == 304
    assert len(tags) == 9


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"sql": "SELEC"}, 400, "INVALID_SQL"),
        ({"sql": "SELECT * FROM app.none"}, 404, "NOT_FOUND"),
        ({"sql": "SELECT * FROM app.vault"}, 403, "UNAUTHORIZED"),
        ({"from": 5}, 410, "RESUME_EXPIRED"),
        ({"params": "7"}, 400, "UNSUPPORTED"),
        ({"id": " "}, 400, "INVALID_SUBSCRIPTION_ID"),
    ],
)
def test_a_refusal_is_a_status(server: Server, asked: Any, status: int, code: str) -> None:
    answer = poll(server, **asked)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_a_gap_begins_anew_where_that_is_asked_for(server: Server) -> None:
    server.post(*orders(1))
    told = poll(server, on_gap="snapshot", **{"from": 5}).json
    assert told["messages"][0]["resumed"] is False
    assert [row["id"] for row in told["messages"][1]["rows"]] == [1]


def test_a_token_is_wanted_and_its_rows_are_told(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert poll(server).status == 401
        assert poll(server, {"Authorization": "Bearer x"}).status == 401
        bearer = {"Authorization": f"Bearer {server.token('alice')}"}
        server.post(insert("app.notes", {"id": 1}, user_id="bob"))
        server.post(insert("app.notes", {"id": 2}, user_id="alice"))
        told = poll(server, bearer, sql="SELECT * FROM app.notes").json
        assert [row["id"] for row in told["messages"][1]["rows"]] == [2]


def test_polls_leave_nothing_behind_and_a_stop_ends_them(tmp_path: Path) -> None:
    with running_server(tmp_path, OPEN) as server:
        position = poll(server).json["position"]
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(poll(server, **{"from": position})))
        asking.start()
        while server.metric("connections") == 0:
            server.post(insert("app.vault", {"id": 1}))
        assert server.stop() == 0
        asking.join(30)
        assert answers[0].status == 503


def test_polls_one_after_the_other_are_exact_while_others_write(server: Server) -> None:
    stop, expected = threading.Event(), dict[int, int]()

    def write() -> None:
        n = 0
        while not stop.is_set() and n < 300:
            n += 1
            if n % 7 == 0:
                server.post(delete("app.orders", {"id": n % 20}))
                expected.pop(n % 20, None)
            else:
                server.post(*orders(n % 20, n=n))
                expected[n % 20] = n

    writing = threading.Thread(target=write)
    writing.start()
    view = View()
    first = poll(server, batch_size=5).json
    for message in first["messages"]:
        view.apply(message)
    position, told = first["position"], first["messages"]
    try:
        while writing.is_alive() or told:
            answer = poll(server, wait=0.2, **{"from": position}).json
            position, told = answer["position"], answer["messages"][2:]
            for message in told:
                view.apply(message)
    finally:
        stop.set()
        writing.join()
    assert {key: row["n"] for key, row in plain(view).items()} == expected
