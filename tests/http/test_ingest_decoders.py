"""What a body becomes, and what of it is refused with which words."""

import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fixtures import Limits, body, decode, insert

from kalam_notify.errors import ChangeRefused
from kalam_notify.http.decoders import Rules, decode_batch
from kalam_notify.http.items import Form
from kalam_notify.model import SHARED, TableDef, TableId
from kalam_notify.model.tables import Catalog


def refusal(
    raw: bytes, form: Form = Form.JSON, limits: Limits | None = None
) -> tuple[int, str, int | None, str | None]:
    with pytest.raises(ChangeRefused) as caught:
        decode(raw, form, limits=limits)
    fault = caught.value
    assert fault.message
    return fault.status, fault.code, fault.index, fault.field


def test_a_kept_row_takes_the_memory_of_its_text() -> None:
    raw = body(*(insert({"id": n, "a": "x" * 100}) for n in range(500)))
    decode(raw)
    tracemalloc.start()
    try:
        kept = [change.row.json for change in decode(raw) if change.row is not None]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * sum(map(sys.getsizeof, kept))


class TestForms:
    def test_one_object_is_a_batch_of_one(self) -> None:
        (change,) = decode(json.dumps(insert({"id": 7, "a": "b"}, id="evt-1")).encode())
        assert change.table == "app.orders"
        assert change.owner == SHARED
        assert change.kind == "insert"
        assert change.row is not None
        assert change.row.json == b'{"id":7,"a":"b"}'
        assert change.key == "[7]"
        assert change.id == "evt-1"

    @pytest.mark.parametrize("form", list(Form))
    def test_a_byte_order_mark_is_skipped(self, form: Form) -> None:
        raw = json.dumps(insert({"id": 7})).encode()
        (change,) = decode(b"\xef\xbb\xbf" + raw, form)
        assert change.key == "[7]"
        assert decode(b"\xef\xbb\xbf", Form.LINES) == []
        assert refusal(b"\xef\xbb\xbf")[1] == "INVALID_JSON"
        assert refusal(b"\xef\xbb\xbf\xef\xbb\xbf" + raw, form)[1] == "INVALID_JSON"

    def test_an_array_keeps_its_order(self) -> None:
        changes = decode(body(*(insert({"id": n}) for n in range(600))))
        assert [change.key for change in changes] == [f"[{n}]" for n in range(600)]

    def test_an_empty_array_and_empty_lines_are_empty_batches(self) -> None:
        assert decode(b" [ ] ") == []
        assert decode(b"", Form.LINES) == []
        assert decode(b"\n\r\n  \n", Form.LINES) == []

    def test_lines_may_be_blank_indented_and_end_in_carriage_returns(self) -> None:
        line = json.dumps(insert()).encode()
        assert len(decode(b"\n  " + line + b"\r\n\n" + line, Form.LINES)) == 2

    def test_a_big_batch_rests_on_its_way(self) -> None:
        raw = body(*(insert({"id": n}) for n in range(1000)))
        assert len(list(decode_batch(raw, Form.JSON, Rules(catalog(), Limits())))) == 3
        lines = b"\n".join(json.dumps(insert({"id": n})).encode() for n in range(1000))
        assert len(list(decode_batch(lines, Form.LINES, Rules(catalog(), Limits())))) == 3

    def test_fields_nobody_knows_are_ignored(self) -> None:
        (change,) = decode(body(insert(source={"lsn": [1, 2]}, ts=1e3)))
        assert change.row is not None
        assert change.row.values == {"id": 1}

    def test_null_fields_are_absent_fields(self) -> None:
        (change,) = decode(body(insert(old_data=None, user_id=None, id=None)))
        assert change.old is None
        assert change.id is None

    def test_table_names_are_folded(self) -> None:
        assert decode(body(insert(table="App.ORDERS")))[0].table == "app.orders"

    def test_of_a_name_given_twice_the_last_stands(self) -> None:
        raw = (
            b'{"table":"x","table":"app.orders","change_type":"insert","row_data":{"id":1,"id":2}}'
        )
        (change,) = decode(raw)
        assert change.key == "[2]"
        assert change.row is not None
        assert change.row.json == b'{"id":2}'


def catalog() -> Catalog:
    return Catalog([TableDef(TableId("app.orders"), "shared", primary_key=("id",))])


class TestMeaning:
    def test_one_and_text_one_are_two_keys(self) -> None:
        keys = [change.key for change in decode(body(insert({"id": 1}), insert({"id": "1"})))]
        assert keys == ["[1]", '["1"]']

    def test_a_key_of_two_columns(self) -> None:
        row = {"line": "é", "order_id": 2**64 - 1}
        (change,) = decode(body(insert(row, table="app.lines")))
        assert change.key == '[18446744073709551615,"é"]'

    def test_a_user_tables_row_has_an_owner(self) -> None:
        (change,) = decode(body(insert(table="chat.inbox", user_id="Alice B")))
        assert change.owner == "Alice B"

    @pytest.mark.parametrize("field", ["old_data", "row_data"])
    def test_a_delete_needs_the_key_in_either_image(self, field: str) -> None:
        raw = {"table": "app.orders", "change_type": "delete", field: {"id": 3}}
        (change,) = decode(body(raw))
        assert (change.kind, change.key, change.row) == ("delete", "[3]", None)
        assert change.old is not None

    def test_a_delete_takes_the_image_that_has_the_key(self) -> None:
        raw = insert(change_type="delete", row_data={"id": 3}, old_data={"status": "x"})
        (change,) = decode(body(raw))
        assert change.key == "[3]"

    def test_a_delete_without_a_key_is_its_old_row(self) -> None:
        raw = {"table": "app.events", "change_type": "delete", "old_data": {"a": None}}
        (change,) = decode(body(raw))
        assert change.key is None
        assert change.old is not None
        assert change.old.json == b'{"a":null}'

    def test_without_a_key_an_update_keeps_its_old_row_and_an_insert_has_none(self) -> None:
        fields: dict[str, Any] = {"table": "app.events", "old_data": {"a": 1}}
        update, new = decode(
            body(insert({"a": 2}, **fields, change_type="update"), insert({"a": 2}, **fields))
        )
        assert update.old is not None
        assert new.old is None

    def test_old_data_may_leave_the_key_out(self) -> None:
        (change,) = decode(body(insert(change_type="update", old_data={"a": 1})))
        assert change.key == "[1]"

    @pytest.mark.parametrize("verb", ["insert", "update", "upsert", "delete", "truncate"])
    @pytest.mark.parametrize("spelled", [str.lower, str.upper])
    def test_verbs_may_be_in_capitals(self, verb: str, spelled: Callable[[str], str]) -> None:
        (change,) = decode(body(insert(change_type=spelled(verb))))
        assert change.kind == ("insert" if verb == "upsert" else verb)

    def test_a_truncate_needs_no_row_and_keeps_its_id(self) -> None:
        raw = body(insert(change_type="truncate", row_data=..., id="t"))
        (change,) = decode(raw)
        assert (change.kind, change.row, change.old, change.key, change.id) == (
            *("truncate", None, None, None),
            "t",
        )

    def test_unchanged_columns_are_told_once_each(self) -> None:
        (change,) = decode(body(insert({"id": 1, "a": 2}, unchanged=["b", "c", "b"])))
        assert change.unchanged == ("b", "c")
        (change,) = decode(body(insert({"id": 1, "a": 2}, unchanged=[])))
        assert change.unchanged == ()

    def test_a_missing_table_is_told_as_missing(self) -> None:
        with pytest.raises(ChangeRefused, match="the table is missing") as caught:
            decode(body(insert(), insert(table=...)))
        assert (caught.value.index, caught.value.field) == (1, "table")

    def test_auto_created_tables_are_keyed_by_id(self) -> None:
        created: list[TableDef] = []
        anything = Catalog(auto_create=True, on_create=created.append)
        decode(body(insert(table="new.one"), insert(table="new.one")), catalog=anything)
        assert [table.id for table in created] == ["new.one"]
        assert anything.get(TableId("new.two")) is not None
        assert [table.id for table in anything.tables()] == ["new.one"]

    def test_no_more_tables_are_created_than_may_be(self) -> None:
        two = Catalog(auto_create=True, max_tables=2)
        decode(body(insert(table="new.one"), insert(table="new.two")), catalog=two)
        decode(body(insert(table="new.one")), catalog=two)
        with pytest.raises(ChangeRefused, match=r"limits\.max_tables") as caught:
            decode(body(insert(table="new.three")), catalog=two)
        assert (caught.value.code, caught.value.field) == ("UNKNOWN_TABLE", "table")


DEEP = 100_000
BAD_JSON = [
    b"",
    b"   ",
    b"{",
    b"nope",
    b"[{]",
    b"[1,2",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"a":' + b"[" * DEEP,
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"a":"\\ud800"}}',
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"\\udc00\\ud800":1}}',
    *(
        b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"%b":1}%b}' % (name, rest)
        for name in (rb"\ud800", rb"_\ud800", rb"a\uDFFF")
        for rest in (b"", b',"change_type":"nope"', b',"change_type":"insert"', b',"user_id":7')
    ),
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"a":"\xff"}}',
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1},"unknown":"\xc3"}',
    b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"a":"\x01"}}',
    b'[{"table":"app.orders","change_type":"insert","row_data":{"id":01}}]',
    b"\xff\xfe[\x00]\x00",
    b"{} {}",
    b"[] []",
]

C = "INVALID_CHANGE"
BAD_CHANGES: list[tuple[str, object, str, str | None]] = [
    ("a number", 5, C, None),
    ("an array", [insert()], C, None),
    ("null", None, C, None),
    ("nothing in it", {}, C, "table"),
    ("no table", insert(table=...), C, "table"),
    ("a table that is a number", insert(table=5), C, "table"),
    ("half a table name", insert(table="orders"), C, "table"),
    ("a dotted table name", insert(table="a.b.c"), C, "table"),
    ("a table name folded by unicode", insert(table="app.orderſ"), C, "table"),
    ("an unknown table", insert(table="app.nowhere"), "UNKNOWN_TABLE", "table"),
    ("no change_type", insert(change_type=...), C, "change_type"),
    ("an unknown change_type", insert(change_type="merge"), C, "change_type"),
    ("a change_type in mixed case", insert(change_type="Insert"), C, "change_type"),
    ("unchanged that is a text", insert(unchanged="a"), C, "unchanged"),
    ("unchanged with a number in it", insert(unchanged=["a", 1]), C, "unchanged"),
    ("a truncate's unchanged", insert(change_type="truncate", unchanged="a"), C, "unchanged"),
    (
        "unchanged that has a value",
        insert({"id": 1, "a": 2}, unchanged=["b", "a"]),
        C,
        "unchanged.1",
    ),
    ("an unchanged key", insert({"a": 2}, unchanged=["id"]), C, "row_data.id"),
    ("unchanged of the server's", insert(unchanged=["_seq"]), C, "unchanged.0"),
    ("unchanged and undeclared", insert(table="app.strict", unchanged=["b"]), C, "unchanged.0"),
    ("unchanged of nothing kept", insert(table="app.events", unchanged=["b"]), C, "unchanged"),
    (
        "a truncate of nothing kept",
        insert(table="app.events", change_type="truncate"),
        C,
        "change_type",
    ),
    (
        "a truncate of everybody's rows",
        insert(table="chat.inbox", change_type="truncate"),
        C,
        "user_id",
    ),
    ("a change_type that is a list", insert(change_type=["insert"]), C, "change_type"),
    ("a user_id in a shared table", insert(user_id="alice"), C, "user_id"),
    ("no user_id in a user table", insert(table="chat.inbox"), C, "user_id"),
    ("an empty user_id", insert(table="chat.inbox", user_id=""), C, "user_id"),
    ("a long user_id", insert(table="chat.inbox", user_id="u" * 129), C, "user_id"),
    ("an unprintable user_id", insert(table="chat.inbox", user_id="a\nb"), C, "user_id"),
    ("a user_id that is a number", insert(table="chat.inbox", user_id=5), C, "user_id"),
    ("an empty id", insert(id=""), C, "id"),
    ("a long id", insert(id="i" * 257), C, "id"),
    ("an id that is a number", insert(id=5), C, "id"),
    ("no row_data", insert(row_data=...), C, "row_data"),
    ("row_data null", insert(row_data=None), C, "row_data"),
    ("row_data an array", insert(row_data=[1]), C, "row_data"),
    ("old_data a text", insert(old_data="x"), C, "old_data"),
    ("the key missing", insert({"a": 1}), C, "row_data.id"),
    ("the key null", insert({"id": None}), C, "row_data.id"),
    ("the key a list", insert({"id": [True]}), C, "row_data.id"),
    ("the key a float", insert({"id": 1.0}), C, "row_data.id"),
    ("the key an object", insert({"id": {}}), C, "row_data.id"),
    ("half a key", insert({"order_id": 1}, table="app.lines"), C, "row_data.line"),
    ("another key before", insert(old_data={"id": 2}), C, "old_data.id"),
    ("the same key in another type before", insert(old_data={"id": 1.0}), C, "old_data.id"),
    ("the key true before", insert(old_data={"id": True}), C, "old_data.id"),
    ("a delete of nothing", insert(change_type="delete", row_data=...), C, "old_data"),
    (
        "a delete without the key",
        insert(change_type="delete", row_data={"a": 1}),
        C,
        "row_data.id",
    ),
    (
        "a delete of two keys",
        insert(change_type="delete", old_data={"id": 2}),
        C,
        "old_data.id",
    ),
    (
        "a keyless delete with row_data only",
        insert(table="app.events", change_type="delete"),
        C,
        "old_data",
    ),
    ("an empty column name", insert({"id": 1, "": 1}), C, "row_data."),
    ("a column of the server", insert({"id": 1, "_seq": "9"}), C, "row_data._seq"),
    ("a control character", insert({"id": 1, "a\tb": 1}), C, "row_data.a\tb"),
    ("a C1 control character", insert({"id": 1, "a\x85": 1}), C, "row_data.a\x85"),
    ("a long column name", insert({"id": 1, "c" * 256: 1}), C, "row_data." + "c" * 256),
    ("a column long in bytes", insert({"id": 1, "é" * 128: 1}), C, "row_data." + "é" * 128),
    ("a bad column in old_data", insert(old_data={"_x": 1}), C, "old_data._x"),
    ("an undeclared column", insert({"id": 1, "b": 1}, table="app.strict"), C, "row_data.b"),
    ("an integer above 2^64-1", insert({"id": 1, "a": 2**64}), C, "row_data.a"),
    ("an integer below -2^63", insert({"id": 1, "a": -(2**63) - 1}), C, "row_data.a"),
    ("a key above 2^64-1", insert({"id": 2**64}), C, "row_data.id"),
    ("a huge integer deep inside", insert({"id": 1, "a": [{"b": 10**4000}]}), C, "row_data.a.0.b"),
    ("too deep", insert({"id": 1, "a": [[[[[[[[]]]]]]]]}), C, "row_data"),
]


class TestRefusals:
    @pytest.mark.parametrize("raw", BAD_JSON, ids=range(len(BAD_JSON)))
    def test_what_is_not_json_is_refused_as_such(self, raw: bytes) -> None:
        status, code, _, _ = refusal(raw)
        assert (status, code) == (400, "INVALID_JSON")

    @pytest.mark.parametrize("raw", BAD_JSON[2:], ids=range(2, len(BAD_JSON)))
    def test_so_it_is_on_a_line(self, raw: bytes) -> None:
        status, code, index, _ = refusal(json.dumps(insert()).encode() + b"\n" + raw, Form.LINES)
        assert status == 400
        assert code == "INVALID_JSON" or (code, index) == ("INVALID_CHANGE", 1)

    @pytest.mark.parametrize(("name", "change", "code", "field"), BAD_CHANGES)
    def test_the_fault_is_named_in_every_form(
        self, name: str, change: object, code: str, field: str | None
    ) -> None:
        good, bad = json.dumps(insert()).encode(), json.dumps(change).encode()
        assert refusal(b"[" + good + b", " + bad + b"]") == (400, code, 1, field)
        assert refusal(good + b"\n" + bad, Form.LINES) == (400, code, 1, field)
        if isinstance(change, dict):
            assert refusal(bad) == (400, code, 0, field)

    def test_the_first_of_several_faults_is_named(self) -> None:
        raw = body(insert(), insert(user_id="x"), insert(table=5), insert({"id": None}))
        assert refusal(raw) == (400, C, 1, "user_id")

    @pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"9" * 5000])
    def test_numbers_that_fit_nowhere_are_refused_with_their_place(self, number: bytes) -> None:
        row = b'{"id":1,"a":{"b":[0,' + number + b"]}}"
        raw = b'{"table":"app.orders","change_type":"insert","row_data":' + row + b"}"
        assert refusal(raw) == (400, C, 0, "row_data.a.b.1")
        assert refusal(b"[" + raw + b"]") == (400, C, 0, "row_data.a.b.1")

    def test_a_scalar_body_is_no_change(self) -> None:
        assert refusal(b"5")[:2] == (400, C)
        assert refusal(b'"x"')[:2] == (400, C)


class TestBounds:
    @pytest.mark.parametrize("form", list(Form))
    def test_a_batch_holds_max_batch_changes_and_no_more(self, form: Form) -> None:
        limits = Limits(max_batch_changes=3)

        def raw(count: int) -> bytes:
            lines = [json.dumps(insert()).encode()] * count
            return b"[" + b",".join(lines) + b"]" if form is Form.JSON else b"\n".join(lines)

        assert len(decode(raw(2), form, limits=limits)) == 2
        assert len(decode(raw(3), form, limits=limits)) == 3
        assert refusal(raw(4), form, limits) == (413, "TOO_LARGE", None, None)

    @pytest.mark.parametrize(
        "raw",
        [
            b"[" + b"{}," * 300_000 + b"{}]",
            b"[" + b"[]," * 300_000 + b"[]]",
            b"[[" + b"[]," * 300_000 + b"[]]]",
            b'[{"table":5,"x":[' + b"[]," * 300_000 + b"[]]}]",
            b'{"table":"app.orders","change_type":"insert","row_data":{"id":1,"a":['
            + b"[]," * 300_000
            + b"[]]}}",
            b'{"table":"app.orders","change_type":"delete","old_data":{"id":1,"a":'
            + b'{"b":' * 200
            + b"[" * 3
            + b"{}," * 300_000
            + b"{}"
            + b"]" * 3
            + b"}" * 202,
        ],
        ids=["objects", "arrays", "one array", "an unknown field", "a row", "an old row"],
    )
    def test_nonsense_is_refused_without_building_it(self, raw: bytes) -> None:
        tracemalloc.start()
        try:
            status, _, index, _ = refusal(raw)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (status in (400, 413), index) == (True, 0)
        assert peak < 5 * len(raw)

    def test_a_refusal_deep_in_an_array_rests_on_its_way(self) -> None:
        raw = body(*(insert({"id": n}) for n in range(999)), insert(user_id="x"))
        batch = decode_batch(raw, Form.JSON, Rules(catalog(), Limits()))
        rests: list[None] = []
        with pytest.raises(ChangeRefused) as caught:
            rests.extend(batch)
        assert caught.value.index == 999
        assert len(rests) > 30

    @pytest.mark.parametrize("space", [" ", "\n", "\t"])
    def test_a_row_that_is_long_for_its_white_space_alone_is_taken(self, space: str) -> None:
        text = json.dumps(insert({"id": 1, "a": "x"}))[:-2] + space * 100_000 + "}}"
        assert len(decode(text.encode())) == 1

    def test_a_row_that_is_long_for_its_escapes_alone_is_taken(self) -> None:
        row = '{"id":1,"a":"' + "\\u0041" * 4000 + '"}'
        text = '{"table":"app.orders","change_type":"insert","row_data":' + row + "}"
        assert len(decode(text.encode())) == 1

    def test_too_many_items_that_are_no_changes_are_not_all_looked_at(self) -> None:
        status, code, index, _ = refusal(b"[" + b"1," * 100_000 + b"1]")
        assert (status, code, index) == (400, C, 0)

    @pytest.mark.parametrize("field", ["row_data", "old_data"])
    def test_a_row_takes_max_row_bytes_and_no_more(self, field: str) -> None:
        def raw(size: int) -> bytes:
            row = {"id": 1, "a": "x" * (size - len(b'{"id":1,"a":""}'))}
            return body(insert(**{field: row}))

        for size in (99, 100):
            assert len(decode(raw(size), limits=Limits(max_row_bytes=100))) == 1
        assert refusal(raw(101), limits=Limits(max_row_bytes=100)) == (413, "TOO_LARGE", 0, field)

    def test_white_space_does_not_count_as_row(self) -> None:
        raw = json.dumps([insert()], indent=500).encode()
        assert len(decode(raw, limits=Limits(max_row_bytes=10))) == 1

    def test_a_row_is_max_depth_deep_and_no_more(self) -> None:
        def raw(depth: int) -> bytes:
            row = '{"id":1,"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
            return ('{"table":"app.orders","change_type":"insert","row_data":' + row + "}").encode()

        for depth in (7, 8):
            assert len(decode(raw(depth))) == 1
        assert refusal(raw(9)) == (400, C, 0, "row_data")

    def test_many_brackets_side_by_side_are_not_deep(self) -> None:
        assert len(decode(body(insert({"id": 1, "a": [{}] * 50})))) == 1

    def test_id_and_user_id_may_be_as_long_as_they_may(self) -> None:
        assert len(decode(body(insert(id="é" * 256)))) == 1
        assert len(decode(body(insert(table="chat.inbox", user_id="é" * 128)))) == 1

    def test_column_names_may_be_as_long_as_they_may(self) -> None:
        assert len(decode(body(insert({"id": 1, "c" * 255: 1, "ключ 'x' ;--": 2})))) == 1


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii")), inner),
    max_leaves=20,
)
columns = st.from_regex(r"[a-zé][a-z0-9_.\"' é]{0,20}", fullmatch=True)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(columns, json_values, max_size=6), st.booleans())
def test_values_come_out_as_they_went_in(row: dict[str, Any], ascii_only: bool) -> None:
    row["id"] = 1
    raw = json.dumps(insert(row), ensure_ascii=ascii_only, indent=1).encode()
    (change,) = decode(raw, limits=Limits(max_row_bytes=10**6, max_depth=64))
    assert change.row is not None
    back = json.loads(change.row.json)
    assert repr(back) == repr(row)  # repr tells 1 from 1.0, 0.0 from -0.0 and keeps the order


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(
            ["table", "change_type", "row_data", "old_data", "user_id", "id", "unchanged"]
        ),
        st.sampled_from(
            [
                "app.orders",
                "chat.inbox",
                "insert",
                "delete",
                "truncate",
                ["id"],
                ["b"],
                "",
                None,
                5,
                {"id": 1},
                {"id": 2},
                {"id": True},
                {"a": 2**64},
                [],
                {"_a": 1},
            ]
        ),
    )
)
def test_what_the_rules_refuse_can_always_be_explained(change: dict[str, Any]) -> None:
    fault: ChangeRefused | None = None
    try:
        decode(json.dumps([change]).encode())
    except ChangeRefused as refused:
        fault = refused
    assert fault is None or fault.field is not None
