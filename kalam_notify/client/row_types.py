"""Rows as the types of a program: a msgspec.Struct, a dataclass or a TypedDict in place of a dict.

A field takes the column of its name (a Struct may rename), texts become `datetime`, `UUID` or
`Decimal` where the field says so, and columns that no field is for are left out. `_seq` is there
for a type that has a field for it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from kalam_notify.client.events import Row
from kalam_notify.client.faults import RowMismatch

T = TypeVar("T")
_Fields = msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType


def reader(row_type: type[T]) -> Callable[[Row], T]:
    """What makes a `row_type` of a row.

    Raises TypeError for a type that rows cannot become; what is returned raises RowMismatch.
    """
    described = _described(row_type)
    keeps_seq = any(field.encode_name == "_seq" for field in described.fields)

    def read(row: Row) -> T:
        values = row if keeps_seq else {name: row[name] for name in row if name != "_seq"}
        try:
            return msgspec.convert(values, row_type)
        except msgspec.ValidationError as fault:
            where = f"row with _seq {row.get('_seq')}"
            raise RowMismatch(f"{where} is no {row_type.__name__}: {fault}") from fault

    return read


def _described(row_type: type[Any]) -> _Fields:
    wanted = f"row_type={row_type!r}: give a msgspec.Struct, a dataclass or a TypedDict"
    if not isinstance(row_type, type):
        raise TypeError(wanted)
    try:
        described = msgspec.inspect.type_info(row_type)
    except TypeError as fault:
        raise TypeError(f"row_type={row_type.__name__}: {fault}") from fault
    if not isinstance(described, _Fields):
        raise TypeError(wanted)
    return described
