"""What a subscriber knows: the view it builds by applying messages, and what it holds against them.

Written against the protocol alone, so that the rehearsal does not check the server with its own
code.
"""

from typing import Any

import msgspec

from loadtest.rehearsal.questions import Question

Row = dict[str, Any]
_encode = msgspec.json.Encoder(order="sorted").encode


class View(msgspec.Struct):
    """One subscription's view and position; the two are saved together, so they agree.

    Invariant: `position` is the highest `last_seq_id` or `_seq` seen, which is where to resume.
    """

    question: Question
    # None: nothing seen yet, begin with a snapshot.
    position: int | None = None
    # The position at which the view began; an append-only view holds what came after it.
    began: int | None = None
    # Canonical key -> row; of a table with a key.
    rows: dict[str, Row] = {}
    # Rows in order of arrival; of a table without a key.
    events: list[Row] = []
    ready: bool = False
    # Whether the view was taken up again in the middle of its snapshot. What is sent then are the
    # changes after the last row that came, and among them deletes of rows that had left the
    # filter before the snapshot was taken, which this view never held.
    patched: bool = False
    faults: list[str] = []
    snapshots: int = 0
    resumes: int = 0
    changes: int = 0
    enters: int = 0
    leaves: int = 0

    def subscribe(self) -> dict[str, Any]:
        """The message that begins, or takes up where the view stands."""
        options: dict[str, Any] = {"on_gap": "snapshot"}
        if self.position is not None:
            options["from"] = self.position
        subscription = {"id": "view", "sql": self.question.sql, "options": options}
        self.patched = self.patched or (self.position is not None and not self._is_whole())
        self.ready = False
        return {"type": "subscribe", "subscription": subscription}

    def apply(self, message: dict[str, Any]) -> bool:
        """Take one message of the server; True asks for the next batch."""
        match message["type"]:
            case "subscription_ack":
                self._acknowledged(message)
            case "initial_data_batch":
                return self._batch(message)
            case "change":
                self._change(message)
            case "error" | "auth_error":
                self.faults.append(f"{message.get('code', 'auth_error')}: {message['message']}")
        return False

    def _acknowledged(self, message: dict[str, Any]) -> None:
        if message.get("resumed"):
            self.resumes += 1
            return
        if self.position is not None and not self.question.key:
            self.faults.append("the log no longer reaches back to where events were left off")
        self.rows, self.events, self.position, self.began = {}, [], 0, None
        self.patched = False
        self.snapshots += 1

    def _batch(self, message: dict[str, Any]) -> bool:
        for row in message["rows"]:
            self._step(row)
            self._put(row)
        control = message["batch_control"]
        self.position = max(self.position or 0, control["last_seq_id"])
        if control["has_more"]:
            return True
        self.ready = True
        if self.began is None:
            self.began = self.position
        return False

    def _change(self, message: dict[str, Any]) -> None:
        if not self.ready:
            self.faults.append("a change before the last batch")
        gone = message["change_type"] == "delete"
        rows = message["old_values" if gone else "rows"]
        for row in rows:
            self._step(row)
            if gone:
                self._remove(row)
            else:
                self._put(row)
        self.changes += len(rows)
        self.enters += len(rows) if message.get("transition") == "enter" else 0
        self.leaves += len(rows) if message.get("transition") == "leave" else 0

    def _is_whole(self) -> bool:
        """Whether the snapshot has come to its end; only then is `began` known."""
        return self.began is not None

    def _step(self, row: Row) -> None:
        """Every `_seq` rises: a lower one would be a double or out of order."""
        seq = int(row["_seq"])
        if seq <= (self.position or 0):
            self.faults.append(f"_seq {seq} after {self.position}")
        self.position = seq

    def _put(self, row: Row) -> None:
        if self.question.key:
            self.rows[self._key(row)] = row
        else:
            self.events.append(row)

    def _remove(self, row: Row) -> None:
        if self.rows.pop(self._key(row), None) is None and not self.patched:
            self.faults.append(f"a delete of a row that was not in the view: {row}")

    def _key(self, row: Row) -> str:
        key = self.question.key
        return str(row[key[0]]) if len(key) == 1 else _encode([row[name] for name in key]).decode()
