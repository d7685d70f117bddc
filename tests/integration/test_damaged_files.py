"""A server on a file that is really damaged: it says so, with the path and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.damage import settle, turn_bytes
from helpers.processes import until
from helpers.server import Server, insert
from integration.workers_kit import doors

from kalam_notify.log import FILE_NAME
from kalam_notify.log.soundness import SMALL_BYTES

StartServer = Callable[..., Server]


def filled(server: Server, size: int = 300_000, pad: int = 500) -> Path:
    """Stop the server with at least so many bytes of rows; the log's file."""
    for begin in range(0, size, 2_000_000):
        count = min(size - begin, 2_000_000) // pad
        server.post(
            *(insert("app.orders", {"id": begin + n, "pad": "x" * pad}) for n in range(count))
        )
    assert server.stop() == 0
    path = Path(server.settings["server"]["data_dir"]) / FILE_NAME
    settle(path)
    return path


def assert_tells(text: str, path: Path) -> None:
    assert f"{path} is damaged" in text
    assert f"`kalam-notify doctor {path.parent}`" in text


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("tree", ["rows", "rows_by_seq", "log"])
def test_a_damaged_file_starts_nothing_and_is_told_with_its_path(
    start_server: StartServer, count: int, tree: str
) -> None:
    server = start_server(server={"workers": count})
    path = filled(server)
    turn_bytes(path, tree)
    before = len(server.errors)
    with pytest.raises(AssertionError, match="ended"):
        server.start()
    assert server.process is not None
    assert server.process.wait() == 1
    told = [line for line in server.errors[before:].splitlines() if "is damaged" in line]
    assert len(told) == 1
    assert_tells(told[0], path)
    assert "Traceback" not in server.errors


def test_damage_in_a_large_file_is_told_by_every_worker_while_it_runs(
    start_server: StartServer,
) -> None:
    server = start_server(server={"workers": 2})
    path = filled(server, SMALL_BYTES, 50_000)
    turn_bytes(path, "rows", middle=True)
    server.start()
    with doors(server, 2) as workers:
        for door in workers:
            until(lambda door=door: door.get("/readyz").status == 503, "the damage is found")
            assert_tells(door.get("/readyz").body.decode(), path)
    refusal = server.post_raw(b'{"table":"app.orders","change_type":"insert","row_data":{"id":1}}')
    assert (refusal.status, refusal.json["error"]["code"]) == (503, "OVERLOADED")
    assert int(refusal.headers["retry-after"]) > 0
    assert server.stop() == 0
    told = [line for line in server.errors.splitlines() if "is damaged" in line]
    assert len(told) == 2
    assert_tells(told[0], path)
