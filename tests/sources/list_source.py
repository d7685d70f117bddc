"""A source that is a few lists."""

from collections.abc import AsyncIterator, Mapping

from kalam_notify.model import PostedChange, Row, TableId
from kalam_notify.sources.base import (
    Definition,
    Event,
    Lag,
    SourceUnavailable,
)

T, H = TableId("shop.t"), TableId("shop.h")
KEYED = Definition(("id",), {"id": "Int", "v": "Int"}, "1")
LOOSE = Definition((), {"id": "Int", "v": "Int"}, "1")


class ListCopy:
    def __init__(self, source: "ListSource", name: TableId) -> None:
        source.cuts += 1
        self.cut = f"cut {source.cuts}"
        self._source, self._name = source, name

    async def batches(self) -> AsyncIterator[list[PostedChange]]:
        key = self._source.tables[self._name].primary_key
        for row in list(self._source.rows[self._name]):
            if self._source.breaks_after == 0:
                raise self._source.fault
            self._source.breaks_after -= 1
            yield [change(self._name, row, keyed=bool(key))]


def change(name: TableId, row: Mapping[str, int], *, keyed: bool = True) -> PostedChange:
    json = Row(str(dict(row)).replace("'", '"').replace(" ", "").encode())
    if not keyed:
        return PostedChange(name, "", "insert", json, None)
    return PostedChange(name, "", "insert", json, None, f"[{row['id']}]", only_if_new=True)


class ListSession:
    def __init__(self, source: "ListSource", position: str | None) -> None:
        self._source = source
        self.begins_anew = position is None or source.has_lost_its_place
        source.has_lost_its_place = False
        self._position = "0" if position is None else position
        source.asked.append(self._position)

    @property
    def definitions(self) -> Mapping[TableId, Definition]:
        return self._source.tables

    async def refresh(self) -> None:
        self._source.fault = SourceUnavailable("away")

    def know(self, definitions: Mapping[TableId, Definition]) -> None:
        self._source.known = dict(definitions)

    async def copy(self, table: TableId) -> ListCopy:
        return ListCopy(self._source, table)

    async def end_copies(self) -> None:
        pass

    async def stream(self) -> AsyncIterator[Event]:
        for event in self._source.events:
            yield event
        raise SourceUnavailable("the end of the list")

    def stored(self, position: str) -> None:
        self._source.stored.append(position)

    def position(self) -> str:
        return self._position

    async def close(self) -> None:
        self._source.closed += 1


class ListSource:
    name = "shop"
    access = "public"

    def __init__(self) -> None:
        self.tables: dict[TableId, Definition] = {T: KEYED}
        self.rows: dict[TableId, list[dict[str, int]]] = {T: [{"id": 1, "v": 1}, {"id": 2, "v": 2}]}
        self.events: list[Event] = []
        self.breaks_after = -1
        self.fault: Exception = SourceUnavailable("away")
        self.has_lost_its_place = False
        self.cuts = self.closed = 0
        self.asked: list[str] = []
        self.stored: list[str] = []
        self.known: dict[TableId, Definition] = {}

    async def connect(self, position: str | None, largest: int | None = None) -> ListSession:
        return ListSession(self, position)

    def lag(self) -> Lag:
        return Lag(0, 0.0)
