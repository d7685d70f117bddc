"""A slip that cannot be refused is told with the acknowledgement."""

from collections.abc import Collection

from kalam_notify.errors import LogUnavailable
from kalam_notify.model import ANONYMOUS, Owner, TableDef, TableId
from kalam_notify.model.tables import SeenColumns
from kalam_notify.model.types import ColumnType
from kalam_notify.sql import Limits, parse
from kalam_notify.subscriptions.requests import Notices

ORDERS = TableDef(TableId("app.orders"), "shared", "public", ("id",))


class Rows:
    """A table's newest rows, as far as their columns go."""

    def __init__(self, columns: Collection[str] | None) -> None:
        self.columns = columns
        # Whether all of them were looked at.
        self.are_all = True
        self.asked = 0
        self.now = 100.0

    def columns_of(self, table: TableDef, owner: Owner) -> SeenColumns | None:
        self.asked += 1
        return None if self.columns is None else SeenColumns(frozenset(self.columns), self.are_all)


def told(
    notices: Notices, condition: str, table: TableDef = ORDERS, *, declared: bool = True
) -> list[str]:
    select = parse(f"SELECT * FROM app.orders WHERE {condition}", Limits())
    return list(notices.of(select, table, ANONYMOUS, is_declared=declared))


def test_a_column_that_no_row_has_is_told_with_a_cure() -> None:
    rows = Rows({"id", "status"})
    notices = Notices(rows.columns_of, lambda: rows.now)
    assert told(notices, "status = 'open' AND id = 1") == []
    [notice] = told(notices, 'status = "open"')
    assert 'none of the newest rows of app.orders has a column "open"' in notice
    assert "single quotes" in notice
    [notice] = told(notices, "stauts = 'open'")
    assert "did you mean status?" in notice


def test_a_table_that_is_not_there_yet_is_told() -> None:
    rows = Rows(None)
    notices = Notices(rows.columns_of, lambda: rows.now)
    [notice] = told(notices, "status = 'open'", declared=False)
    assert "app.orders does not exist yet" in notice
    assert told(notices, "status = 'open'") == []
    rows.columns, rows.now = {"status"}, rows.now + 2
    assert told(notices, "status = 'open'", declared=False) == []


def test_rows_that_were_not_looked_at_say_nothing() -> None:
    """All of them are large, or have gone: the table is there, and what it has is not known."""
    rows = Rows(())
    notices = Notices(rows.columns_of, lambda: rows.now)
    for declared in (False, True):
        assert told(notices, "status = 'open'", declared=declared) == []
    assert rows.asked == 1
    rows.columns, rows.now = {"state"}, rows.now + 2
    assert told(notices, "status = 'open'", declared=False) != []


def test_rows_of_which_some_were_passed_over_say_nothing_either() -> None:
    """What was not looked at may have the column; what has been seen is known all the same."""
    rows = Rows({"id", "small"})
    rows.are_all = False
    notices = Notices(rows.columns_of, lambda: rows.now)
    assert told(notices, "doc IS NOT NULL") == []
    assert told(notices, "small = 1") == []
    assert rows.asked == 1
    rows.are_all, rows.now = True, rows.now + 2
    assert told(notices, "doc IS NOT NULL") != []


def test_rows_are_looked_at_once_in_a_while() -> None:
    rows = Rows({"id"})
    notices = Notices(rows.columns_of, lambda: rows.now)
    for _ in range(5):
        assert told(notices, "status = 'open'")
    assert rows.asked == 1
    rows.columns, rows.now = {"status"}, rows.now + 1
    assert told(notices, "status = 'open' AND id = 1") == []
    assert rows.asked == 2
    rows.now += 10
    assert told(notices, "status = 'open' AND id = 1") == []
    assert rows.asked == 2


def test_declared_columns_need_no_notice() -> None:
    rows = Rows(None)
    table = TableDef(ORDERS.id, "shared", "public", columns={"status": ColumnType("Text")})
    assert told(Notices(rows.columns_of), "status = 'open'", table) == []
    assert rows.asked == 0


def test_a_log_that_cannot_be_read_costs_the_notice_only() -> None:
    def broken(table: TableDef, owner: Owner) -> SeenColumns | None:
        raise LogUnavailable("gone")

    assert told(Notices(broken), "status = 'open'") == []
