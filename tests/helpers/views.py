"""A strict view: what a client holds after the messages, and a complaint about any that is odd."""

from typing import Any


class View:
    """Rows by key of one subscription to a keyed table, `SELECT *` or with the key named.

    Fails on what the protocol forbids: a `_seq` that does not rise, an insert of a row that is
    there, an update or delete of one that is not, an old image that is not what was held.
    """

    def __init__(self, key: str = "id") -> None:
        self.key = key
        self.rows: dict[Any, dict[str, Any]] = {}
        self.last_seq = 0
        self.ready = False
        # Changes may be told of rows that the client never held: it joined live only, or was cut
        # off between the pages of a snapshot, of which the log then tells the rest.
        self.partial = False

    def apply(self, message: dict[str, Any]) -> None:
        """Take one message of the subscription."""
        match message["type"]:
            case "subscription_ack":
                self._acknowledged(message)
            case "initial_data_batch":
                self._page(message)
            case "change":
                self._change(message)
            case _:
                raise AssertionError(message)

    def _acknowledged(self, ack: dict[str, Any]) -> None:
        if ack.get("resumed") is False:
            self.rows, self.last_seq, self.partial = {}, 0, False
        elif ack.get("resumed") and not self.ready and self.rows:
            self.partial = True
        self.ready = False

    def _page(self, batch: dict[str, Any]) -> None:
        assert not self.ready, "a page after the ready one"
        for row in batch["rows"]:
            self._advance(row)
            assert row[self.key] not in self.rows, f"doubled {row}"
            self.rows[row[self.key]] = row
        control = batch["batch_control"]
        self.ready = not control["has_more"]
        assert control["last_seq_id"] >= self.last_seq
        self.last_seq = control["last_seq_id"]

    def _change(self, message: dict[str, Any]) -> None:
        assert self.ready or self.partial, "a change before the last page"
        kind, olds = message["change_type"], message.get("old_values", [])
        rows = message.get("rows", olds)
        for index, row in enumerate(rows):
            self._advance(row)
            key, old = row[self.key], olds[index] if olds else None
            held = self.rows.get(key)
            if kind == "insert":
                assert held is None, f"inserted twice: {row}"
                self.rows[key] = row
            elif kind == "update":
                self._check_old(held, old)
                self.rows[key] = row
            else:
                assert held is not None or self.partial, f"deleted but never held: {row}"
                self.rows.pop(key, None)

    def _check_old(self, held: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        assert held is not None or self.partial, f"updated but never held: {old}"
        assert old is not None
        if held is not None:
            assert {name: held.get(name) for name in old} == old

    def _advance(self, row: dict[str, Any]) -> None:
        seq = int(row["_seq"])
        assert seq > self.last_seq, f"_seq {seq} after {self.last_seq}"
        self.last_seq = seq
