"""One image of a row: its JSON text, and its values where somebody has asked for them."""

from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Row:
    """A row as compact JSON, decoded when somebody asks for its values, then kept.

    Invariant: `json` is one JSON object without white space between tokens and without a name
    given twice, so that whoever sends it can splice into it at either end.
    """

    __slots__ = ("_values", "json")

    def __init__(self, json: bytes, values: dict[str, Any] | None = None) -> None:
        self.json = json
        self._values = values

    @property
    def values(self) -> dict[str, Any]:
        """Column name -> JSON value. Shared by all readers: never change it."""
        values = self._values
        if values is None:
            values = self._values = _decode(self.json)
        return values

    @property
    def known_values(self) -> dict[str, Any] | None:
        """The values where they have been decoded; None: whoever wants few of them may do so."""
        return self._values

    def forget(self) -> None:
        """Let go of the decoded values, which take several times the text's memory.

        For rows that are kept but rarely looked at again; asking for `values` decodes anew.
        """
        self._values = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)

    def __repr__(self) -> str:
        return f"Row({self.json!r})"
