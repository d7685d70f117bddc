"""connect_sync() and connect() against a server process."""

import asyncio
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.server import Server, delete, insert, update

from kalam_notify.client import (
    AuthenticationFailed,
    Backoff,
    ChangeRefused,
    Closed,
    Delete,
    Insert,
    KalamNotifyError,
    Ready,
    Reset,
    SubscriptionRefused,
    SyncConnection,
    connect,
    connect_sync,
)

SQL = "SELECT * FROM app.orders"
SECONDS = 60.0
TABLE = "app.orders"


@dataclass
class Order:
    id: int
    status: str | None = None


def connected(server: Server, role: str = "service", **options: Any) -> SyncConnection:
    quick = Backoff(base=0.05, pause=0)
    return connect_sync(server.url, token=server.token("a", role), backoff=quick, **options)


def test_a_script_posts_and_sees_what_it_posted(server: Server) -> None:
    with connected(server) as db:
        assert db.publish(insert(TABLE, {"id": 2}), insert(TABLE, {"id": 1})).accepted == 2
        orders = db.live(SQL, row_type=Order)
        assert orders.rows == [Order(1), Order(2)]
        db.publish(update(TABLE, {"id": 1, "status": "paid"}))
        orders.until(lambda rows: rows[0].status == "paid", timeout=SECONDS)
        assert (len(orders), list(orders)) == (2, [Order(1, "paid"), Order(2)])
        assert "<td>paid</td>" in orders._repr_html_()
        orders.close()
        assert orders.status == "closed"


def test_changes_are_iterated_over_with_a_timeout(server: Server) -> None:
    with connected(server) as db:
        db.publish(insert(TABLE, {"id": 1}))
        changes = db.live(SQL, row_type=Order).changes(timeout=0.1)
        assert [next(changes) for _ in range(3)] == [Reset(), Insert(Order(1)), Ready()]
        with pytest.raises(TimeoutError):
            next(changes)
        db.publish(delete(TABLE, {"id": 1}))
        while True:
            try:
                assert next(changes) == Delete(Order(1))
                break
            except TimeoutError:
                continue


def test_listeners_are_called_and_may_look_at_their_view(server: Server) -> None:
    heard: list[int] = []
    arrived = threading.Event()
    with connected(server) as db:
        orders = db.live(SQL)

        def listen(rows: list[Any]) -> None:
            assert orders.rows is rows
            heard.append(len(rows))
            if len(rows) == 3:
                arrived.set()

        stop = orders.subscribe(listen)
        db.publish(insert(TABLE, {"id": n}) for n in range(3))
        assert arrived.wait(SECONDS)
        stop()
        db.publish(insert(TABLE, {"id": 4}))
        orders.until(lambda rows: len(rows) == 4, timeout=SECONDS)
    assert heard[-1] == 3


def test_threads_share_a_connection(server: Server) -> None:
    with connected(server) as db:
        views = db.live(SQL), db.live(SQL, sort_key=lambda row: -row["id"])
        threads = [
            threading.Thread(target=lambda n=n: db.publish(insert(TABLE, {"id": n})))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for view in views:
            view.until(lambda rows: len(rows) == 20, timeout=SECONDS)
        assert [row["id"] for row in views[1].rows] == list(range(19, -1, -1))


def test_what_is_refused_is_raised_where_it_was_asked(server: Server) -> None:
    with connected(server, "user") as db:
        with pytest.raises(SubscriptionRefused) as refused:
            db.live("SELECT * FROM app.nowhere")
        assert refused.value.code == "NOT_FOUND"
        with pytest.raises(ChangeRefused) as forbidden:
            db.publish(insert(TABLE, {"id": 1}))
        assert (forbidden.value.status, forbidden.value.code) == (403, "FORBIDDEN")
    with pytest.raises(AuthenticationFailed):
        connect_sync(server.url, token="nonsense")
    assert not [it for it in threading.enumerate() if it.name == "kalam-notify"]


def test_a_closed_connection_says_so_and_its_views_keep_their_rows(server: Server) -> None:
    db = connected(server)
    db.publish(insert(TABLE, {"id": 1}))
    orders = db.live(SQL, row_type=Order)
    db.close()
    db.close()
    assert (orders.rows, orders.status) == ([Order(1)], "closed")
    for ask in (lambda: db.live(SQL), lambda: db.publish([]), orders.ready):
        with pytest.raises(Closed):
            ask()


def test_who_waits_in_another_thread_is_told_of_the_end(server: Server) -> None:
    db = connected(server)
    orders = db.live(SQL)
    raised: list[KalamNotifyError] = []
    waits = threading.Event()

    def never(rows: object) -> bool:
        waits.set()
        return False

    def wait() -> None:
        try:
            orders.until(never)
        except KalamNotifyError as fault:
            raised.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(SECONDS)
    db.close()
    thread.join(SECONDS)
    assert isinstance(raised[0], Closed)


def test_a_forked_process_is_told_to_connect_anew(server: Server) -> None:
    with connected(server) as db:
        orders = db.live(SQL)
        child = os.fork()
        if child == 0:
            try:
                _ = orders.rows
            except RuntimeError as fault:
                os._exit(7 if "connect after" in str(fault) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert orders.rows == []


SCRIPT = """
import sys
from kalam_notify.client import connect_sync
db = connect_sync(sys.argv[1], token=sys.argv[2])
print(db.live("SELECT * FROM app.orders").rows)
"""


def test_a_script_that_closes_nothing_ends_all_the_same(server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.url, server.token()],
        capture_output=True,
        timeout=SECONDS,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


async def test_views_and_posts_go_on_through_a_killed_server(server: Server) -> None:
    token = server.token("a", "service")
    quick = Backoff(base=0.05, pause=0)
    async with (
        asyncio.timeout(SECONDS * 2),
        connect(server.url, token=token, backoff=quick) as db,
    ):
        orders = await db.live(SQL, row_type=Order)
        await db.publish(insert(TABLE, {"id": 0}))
        for number in range(1, 4):
            server.kill()
            posting = asyncio.create_task(
                db.publish(insert(TABLE, {"id": number}), timeout=SECONDS)
            )
            await asyncio.to_thread(server.start)
            told = await posting
            assert told.accepted + told.duplicates == 1
        await orders.until(lambda rows: len(rows) == 4)
        assert orders.rows == [Order(0), Order(1), Order(2), Order(3)]


async def test_a_retried_post_to_a_table_without_a_key_is_stored_once(server: Server) -> None:
    """The answer is lost after the server has stored: the retry must not store again."""
    async with connect(server.url, token=server.token("a", "service")) as db:
        events = await db.live("SELECT * FROM app.events", live_only=True)
        post = {"table": "app.events", "change_type": "insert", "row_data": {"n": 1}}
        real, lost = db._publisher._open, []

        class Lossy:
            def __init__(self) -> None:
                self.server = real()

            def once(self, *args: Any, **options: Any) -> Any:
                answer = self.server.once(*args, **options)
                if len(lost) < 3:
                    lost.append(answer)
                    raise ConnectionResetError
                return answer

            def close(self) -> None:
                self.server.close()

        db._publisher._open = Lossy
        told = await db.publish(post)
        assert (told.accepted, told.duplicates) == (0, 1)
        assert lost[0].body["accepted"] == 1
        await db.publish({**post, "row_data": {"n": 2}})
        await events.until(lambda rows: bool(rows) and rows[-1]["n"] == 2)
        assert [row["n"] for row in events.rows] == [1, 2]
