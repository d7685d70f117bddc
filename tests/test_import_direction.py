"""Who may import whom: the rooms of the house, left from right only."""

import ast
from pathlib import Path

import kalam_notify

PACKAGE = Path(kalam_notify.__file__).parent

# Each room may import from those in rows above its own, and from itself.
ORDER = [
    {"version", "errors", "budget"},
    {"model"},
    {"config"},
    {"protocol", "sql", "formats", "singleflight", "store", "auth", "logs", "loops", "memory"},
    {"log"},
    {"filters", "sources"},
    {"subscriptions"},
    {"delivery"},
    {"catchup"},
    {"administration"},
    {"http", "metrics"},
    {"sockets", "scrape", "garbage"},
    {"endpoints"},
    {"worker"},
    {"supervision"},
    {"app"},
    {"cli"},
    {"__main__", "__init__"},
]
# The client is a program of its own: it shares values and words with the server, nothing else.
CLIENT_MAY_IMPORT = {"client", "errors", "model", "protocol", "version"}
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms a module imports from when it is loaded; imports inside functions are lazy."""
    rooms = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kalam_notify."):
            rooms.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("kalam_notify.")
            }
    return rooms


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")}
    assert rooms <= RANK.keys() | {"client"}


def test_imports_go_from_right_to_left_only() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        for other in imported_rooms(path):
            if other == room:
                continue
            if room == "client":
                allowed = other in CLIENT_MAY_IMPORT
            else:
                allowed = other != "client" and RANK[other] < RANK[room]
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert wrong == []


def test_the_rooms_without_io_import_none() -> None:
    """They are tested by calling functions: no sockets, no loop."""
    forbidden = {"asyncio", "socket", "uvloop", "uvicorn", "starlette", "sqlite3"}
    for room in ("protocol", "sql", "formats", "filters", "subscriptions", "model"):
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not {name.split(".")[0] for name in names} & forbidden, path
