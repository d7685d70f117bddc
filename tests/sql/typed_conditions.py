"""Random rows of a table with typed columns, and conditions on them, for us and for PostgreSQL.

A condition is made twice: as it is sent to us, and as PostgreSQL is asked. They differ where
PostgreSQL raises an error and we answer NULL: there it is asked through a function of the test's
that catches the error. `$1`, `$2`, ... are the same in both, with their values beside them.

Left out is what docs/sql.md lists as different.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

TYPES = {
    "id": "bigint",
    "a": "integer",
    "big": "bigint",
    "num": "numeric",
    "amt": "numeric(12,4)",
    "dbl": "double precision",
    "ts": "timestamptz",
    "day": "date",
    "uid": "uuid",
    "s": "text",
    "t": "varchar(40)",
    "f": "boolean",
    "j": "jsonb",
    "tags": "text[]",
}
FUNCTIONS = """
CREATE OR REPLACE FUNCTION pg_temp.try_{name}(x {given}) RETURNS {result} AS $$
BEGIN RETURN {body}; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$ LANGUAGE plpgsql IMMUTABLE
"""
_TRIED = [
    ("numeric", "text", "numeric"),
    ("integer", "text", "integer"),
    ("bigint", "text", "bigint"),
    ("double", "text", "double precision"),
    ("boolean", "text", "boolean"),
    ("date", "text", "date"),
    ("timestamptz", "text", "timestamptz"),
    ("uuid", "text", "uuid"),
    ("integer", "numeric", "integer"),
    ("integer", "double precision", "integer"),
    ("bigint", "numeric", "bigint"),
    ("smallint", "bigint", "smallint"),
]


def functions() -> list[str]:
    """What PostgreSQL needs for the casts that it would fail at."""
    made = [
        FUNCTIONS.format(name=name, given=given, result=result, body=f"x::{result}")
        for name, given, result in _TRIED
    ]
    made.append(
        FUNCTIONS.format(name="money", given="text", result="numeric", body="x::numeric(6,2)")
    )
    return made


_BIG = [0, 1, -1, 7, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
_NUM = ["0", "1", "-1", "1.5", "1.50", "0.1", "-0.1", "2.5", "3.5", "-2.5", "1e3", "100", "0.10"]
_NUM += ["12345678901234567890123456789012.123456", "12345678901234567890123456789012.1234560"]
_NUM += ["12345678901234567890123456789012.123457", "-0.00000000000000000000000000000001"]
_AMT = ["0", "1.5", "1.2500", "99999999.9999", "-3", "0.1", "2.5"]
_DBL = [0.0, 0.1, 0.5, -0.5, 1.0, 1.5, 2.5, 3.5, -2.25, 1e300, 1e15, 123456.789, 1e-7, -1e22]
_TS = ["2024-05-01", "2024-05-01 12:00", "2024-05-01T12:00:00Z", "2024-05-01T14:00:00+02:00"]
_TS += ["2024-05-01 12:00:00.000001+00", "2024-04-30T23:59:59.999999Z", "2024-05-01 07:00:00-05"]
_TS += ["0001-01-01T00:00:00Z", "9999-12-31 23:59:59+00", "2024-05-01 24:00:00", "2024-02-29"]
_DAY = ["2024-05-01", "2024-04-30", "2024-05-02", "0001-01-01", "9999-12-31", "2024-02-29"]
_UID = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]
_UID += ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11"]
_UID += ["b1eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"]
_TEXT = ["", "a", "b", "ab", "aB", "abc", "a%", "_", "日", "😀", "a\nb", " a ", "true", "f", "off"]
_TEXT += ["1", "1.5", "-2", " 7 ", "1e2", "x1", "0.10", "2024-05-01", "2024-05-01T12:00:00Z"]
_TEXT += ["2024-13-01", "99999999999", "1.", ".5", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "yes"]
_TAGS: list[Any] = [[], ["a"], ["a", "b"], ["ab", None], [None], ["1", "日"], ["b", "abc", "a%"]]
_JSON: list[Any] = [
    {"k": "v", "n": 1.5},
    {"k": None, "n": 3, "list": [1, "a", {"z": True}]},
    {"k": "1.5", "o": {"p": "q", "r": [1, 2]}},
    [1, "a", {"z": True, "y": 1}],
    [1.0, [1, 2], None],
    {},
    [],
    "a",
    7,
    True,
    {"k": "2024-05-01", "n": "7", "tags": ["a", "b"]},
]
_CONTAINED = ["{}", "[]", '{"k": "v"}', '{"n": 3}', '{"n": 1.50}', "[1]", '["a"]', '[{"z": true}]']
_CONTAINED += ["1", '"a"', '{"o": {"r": [2]}}', '{"list": [{"z": true}, "a"]}', "[[2]]", "[null]"]
_CONTAINED += ['{"k": null}', "7", "true", '{"tags": ["b"]}', "[1.0]"]
_PATTERNS = ["a%", "%b", "%", "_", "a_c", "%a%b%", "ab", "", "日%", "%\n%", "1%"]


def row(random: Random, number: int) -> dict[str, Any]:
    """A row as JSON: decimals as text or as a number, as feeders write them."""

    def maybe(values: list[Any]) -> Any:
        return None if random.random() < 0.12 else random.choice(values)

    found = {
        "a": maybe(list(range(-6, 7))),
        "big": maybe(_BIG),
        "num": maybe(_NUM),
        "amt": maybe(_AMT),
        "dbl": maybe(_DBL),
        "ts": maybe(_TS),
        "day": maybe(_DAY),
        "uid": maybe(_UID),
        "s": maybe(_TEXT),
        "t": maybe(_TEXT),
        "f": maybe([True, False]),
        "j": maybe(_JSON),
        "tags": maybe(_TAGS),
    }
    if found["num"] in ("1.5", "0.1", "100", "-1") and random.random() < 0.5:
        found["num"] = json.loads(found["num"])
    return {"id": number, **{name: value for name, value in found.items() if value is not None}}


def stored(row: dict[str, Any]) -> list[Any]:
    """A row's values for PostgreSQL, in the order of TYPES."""
    values = {**row, "num": None if row.get("num") is None else str(row["num"])}
    if "j" in row:
        values["j"] = json.dumps(row["j"])
    return [values.get(name) for name in TYPES]


@dataclass(frozen=True)
class Both:
    """A piece of a condition: ours, and theirs."""

    ours: str
    theirs: str


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _same(text: str) -> Both:
    return Both(text, text)


@dataclass
class Conditions:
    """Makes conditions; `params` are the values of those it has made."""

    random: Random
    with_params: bool = False
    params: list[Any] = field(default_factory=list)

    def pick(self, *choices: Callable[[], Both]) -> Both:
        return self.random.choice(choices)()

    def of(self, shape: str, *parts: Both) -> Both:
        return Both(
            shape.format(*(part.ours for part in parts)),
            shape.format(*(part.theirs for part in parts)),
        )

    def choose(self, values: list[Any]) -> Any:
        return self.random.choice(values)

    def value(self, value: Any, written: str, cast: str = "") -> Both:
        """A constant: as a parameter where there are some, else as it is written."""
        if self.with_params and self.random.random() < 0.6:
            self.params.append(value)
            name = f"${len(self.params)}"
            return Both(name, name + cast)
        return _same(written)

    # --- conditions

    def condition(self, depth: int) -> Both:
        if depth == 0:
            return self.comparison(0)

        def below() -> Both:
            return self.condition(depth - 1)

        tests = ["IS NULL", "IS NOT TRUE", "IS FALSE", "IS UNKNOWN", "IS NOT UNKNOWN", "IS TRUE"]
        return self.pick(
            lambda: self.comparison(depth - 1),
            lambda: self.comparison(depth - 1),
            lambda: self.of(f"{{}} {self.choose(['AND', 'OR'])} {{}}", below(), below()),
            lambda: self.of("({} OR {})", below(), below()),
            lambda: self.of("NOT ({})", below()),
            lambda: self.of(f"({{}}) {self.choose(tests)}", below()),
        )

    def relation(self) -> str:
        return str(
            self.choose(
                ["=", "=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
            )
        )

    def compared(self, left: Both, right: Both) -> Both:
        return self.of(f"{{}} {self.relation()} {{}}", left, right)

    def comparison(self, depth: int) -> Both:
        return self.pick(
            lambda: self.compared(self.number(depth), self.number(depth)),
            lambda: self.compared(self.column("num"), self.numeric_constant()),
            lambda: self.compared(self.column("amt"), self.numeric_constant()),
            lambda: self.compared(self.column("big"), self.value(v := self.choose(_BIG), str(v))),
            lambda: self.compared(self.real(depth), self.real(depth)),
            lambda: self.compared(self.text(depth), self.text(depth)),
            lambda: self.compared(self.time(), self.time()),
            lambda: self.compared(self.uuid(), self.uuid()),
            self.between,
            self.membership,
            self.quantified,
            lambda: self.likeness(depth),
            self.boolean,
            self.json,
            self.null_test,
        )

    def column(self, name: str) -> Both:
        return _same(name)

    def numeric_constant(self) -> Both:
        text = self.choose(_NUM)
        if self.random.random() < 0.3:
            return self.value(text, quoted(text), "::numeric")
        return self.value(text, text if "e" not in text else "1000", "::numeric")

    def between(self) -> Both:
        word = self.choose(["BETWEEN", "NOT BETWEEN"])
        shape = f"{{}} {word} {{}} AND {{}}"
        return self.pick(
            lambda: self.of(shape, self.number(0), self.number(0), self.number(0)),
            lambda: self.of(shape, self.time(), self.time(), self.time()),
            lambda: self.of(shape, self.text(0), self.text(0), self.text(0)),
        )

    def membership(self) -> Both:
        word = self.choose(["IN", "NOT IN"])
        shape = f"{{}} {word} ({{}}, {{}}, {{}})"
        null = _same("NULL")
        return self.pick(
            lambda: self.of(shape, self.column("num"), *(self.numeric_constant() for _ in "123")),
            lambda: self.of(shape, self.column("a"), _same("1"), _same("-2"), null),
            lambda: self.of(shape, self.text(0), self.text(0), self.text(0), self.text(0)),
            lambda: self.of(shape, _same("uid"), *(self.uuid_constant() for _ in "123")),
            lambda: self.of(shape, _same("ts"), self.instant(), self.instant(), null),
        )

    def quantified(self) -> Both:
        """= ANY and <> ALL, of arrays that stand in the row, in the text and in a parameter."""
        word = self.choose(["= ANY", "<> ALL"])
        text = [self.choose(_TEXT) for _ in range(3)]
        written = ", ".join(map(quoted, text))
        numbers = [self.choose(_BIG) for _ in range(3)]
        return self.pick(
            lambda: self.of(f"{{}} {word}(tags)", self.text(0)),
            lambda: self.of(f"s {word}({{}})", self.listed(text, f"ARRAY[{written}]", "::text[]")),
            lambda: self.of(
                f"big {word}({{}})",
                self.listed(numbers, f"ARRAY[{', '.join(map(str, numbers))}]", "::bigint[]"),
            ),
            lambda: self.of(
                f"num {word}({{}})",
                self.listed(["1.5", "0.1", "7"], "ARRAY[1.5, 0.1, 7]", "::numeric[]"),
            ),
            lambda: (
                self.of(
                    f"uid {word}({{}})",
                    self.listed(
                        _UID[:3], f"ARRAY[{', '.join(map(quoted, _UID[:3]))}]::uuid[]", "::uuid[]"
                    ),
                )
                if self.with_params
                else _same("uid = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'")
            ),
        )

    def listed(self, values: list[Any], written: str, cast: str) -> Both:
        if not self.with_params:
            return _same(written)
        self.params.append(values)
        name = f"${len(self.params)}"
        return Both(name, name + cast)

    def likeness(self, depth: int) -> Both:
        word = self.choose(["LIKE", "NOT LIKE", "ILIKE"])
        pattern = self.choose(_PATTERNS)
        return self.of(f"{{}} {word} {{}}", self.text(depth), self.value(pattern, quoted(pattern)))

    def boolean(self) -> Both:
        return self.pick(
            lambda: _same(self.choose(["f", "NOT f", "f = TRUE", "f <> FALSE", "f IS NOT TRUE"])),
            lambda: self.of("f = {}", self.value(True, "TRUE")),
            lambda: Both("CAST(s AS boolean)", "pg_temp.try_boolean(s)"),
            lambda: _same("CAST(a AS boolean)"),
            lambda: Both("t::boolean IS NOT TRUE", "pg_temp.try_boolean(t) IS NOT TRUE"),
        )

    def json(self) -> Both:
        contained = self.choose(_CONTAINED)
        key = self.choose(["k", "n", "a", "o", "z", "list"])
        return self.pick(
            lambda: _same(f"j @> {quoted(contained)}"),
            lambda: _same(f"j @> {quoted(contained)}::jsonb"),
            lambda: _same(f"j -> 'o' @> {quoted(contained)}"),
            lambda: _same(f"j ? '{key}'"),
            lambda: _same(f"j -> 'o' ? '{key}'"),
            lambda: _same("tags @> ARRAY['a']"),
            lambda: _same("j -> 'o' ->> 'p' = 'q'"),
            lambda: _same("j -> 'list' -> 2 ->> 'z' = 'true'"),
            lambda: _same(f"j ->> '{key}' IS NULL"),
            lambda: self.of("j ->> 'k' = {}", self.value("v", "'v'")),
            lambda: Both("(j ->> 'n')::numeric > 1", "pg_temp.try_numeric(j ->> 'n') > 1"),
            lambda: Both(
                "CAST(j ->> 'k' AS numeric) = 1.5", "pg_temp.try_numeric(j ->> 'k') = 1.5"
            ),
            lambda: Both(
                "(j ->> 'k')::date = '2024-05-01'", "pg_temp.try_date(j ->> 'k') = '2024-05-01'"
            ),
        )

    def null_test(self) -> Both:
        word = self.choose(["IS NULL", "IS NOT NULL"])
        return self.of(
            f"{{}} {word}", self.pick(lambda: self.column(self.choose(list(TYPES))), self.tried)
        )

    def tried(self) -> Both:
        """A cast of text that may be none."""
        name, ours = self.choose(
            [
                ("numeric", "numeric"),
                ("integer", "integer"),
                ("bigint", "bigint"),
                ("double", "double precision"),
                ("date", "date"),
                ("timestamptz", "timestamptz"),
                ("uuid", "uuid"),
                ("money", "numeric(6,2)"),
            ]
        )
        # PostgreSQL takes more spellings of a time than we do, and joined texts hit upon them.
        joined = ["(s || t)"] if name not in ("date", "timestamptz") else []
        source = self.choose(["s", "t", "(j ->> 'k')", *joined])
        return Both(f"CAST({source} AS {ours})", f"pg_temp.try_{name}({source})")

    # --- values

    def number(self, depth: int) -> Both:
        """Integers and decimals."""
        if depth == 0:
            return self.pick(
                lambda: self.column("a"),
                lambda: self.column("num"),
                lambda: self.column("amt"),
                lambda: _same(str(self.random.randint(-6, 6))),
                lambda: _same(self.choose(["0.5", "1.5", "0.1", "-2.5"])),
            )

        def below() -> Both:
            return self.number(depth - 1)

        small = ["1", "2.5", "-3"]
        return self.pick(
            below,
            lambda: self.of(f"({{}} {self.choose(['+', '-', '*'])} {{}})", below(), below()),
            lambda: self.of("(- {})", below()),
            lambda: self.of("ABS({})", below()),
            lambda: self.of("(a / {})", _same(self.choose(["2", "3", "-4"]))),
            lambda: self.of("({} % {})", below(), _same(self.choose(["2", "0.7", "-4"]))),
            lambda: self.of("COALESCE({}, {})", below(), below()),
            lambda: self.of("NULLIF({}, {})", below(), _same(self.choose(small))),
            lambda: self.of("LENGTH({})", self.text(0)),
            lambda: self.of(
                "CASE WHEN {} THEN {} ELSE {} END", self.comparison(0), below(), below()
            ),
            lambda: Both("CAST(s AS numeric)", "pg_temp.try_numeric(s)"),
            lambda: Both("(t::numeric(6,2))", "pg_temp.try_money(t)"),
            lambda: Both("CAST(s AS integer)", "pg_temp.try_integer(s)"),
            lambda: Both("CAST(num AS integer)", "pg_temp.try_integer(num)"),
            lambda: Both("CAST(dbl AS integer)", "pg_temp.try_integer(dbl)"),
            lambda: Both("CAST(num AS bigint)", "pg_temp.try_bigint(num)"),
            lambda: Both("big::smallint", "pg_temp.try_smallint(big)"),
            lambda: _same("CAST(f AS integer)"),
            lambda: _same("CAST(amt AS numeric(20,1))"),
        )

    def real(self, depth: int) -> Both:
        """Doubles: one of them stands left, so that PostgreSQL computes in doubles."""
        number = self.choose(_DBL)
        leaf = [
            lambda: self.column("dbl"),
            lambda: self.column("dbl"),
            lambda: self.value(number, f"{number!r}::double precision", "::float8"),
            lambda: Both("CAST(s AS double precision)", "pg_temp.try_double(s)"),
            lambda: _same("a::double precision"),
            lambda: _same("CAST(amt AS double precision)"),
        ]
        if depth == 0:
            return self.pick(*leaf)
        operator = self.choose(["+", "-"])
        return self.pick(
            *leaf,
            lambda: self.of(f"(dbl {operator} {{}})", _same(self.choose(["a", "0.5", "2", "amt"]))),
            lambda: self.of("(dbl * {})", _same(self.choose(["0.5", "2"]))),
        )

    def text(self, depth: int) -> Both:
        text = self.choose(_TEXT)
        leaf = [
            lambda: self.column("s"),
            lambda: self.column("t"),
            lambda: self.value(text, quoted(text)),
        ]
        if depth == 0:
            return self.pick(*leaf)

        def below() -> Both:
            return self.text(depth - 1)

        return self.pick(
            *leaf,
            lambda: self.of("({} || {})", self.column("s"), below()),
            lambda: self.of(f"{self.choose(['LOWER', 'UPPER', 'TRIM'])}({{}})", below()),
            lambda: self.of("SUBSTR({}, {})", below(), _same(str(self.random.randint(1, 4)))),
            lambda: self.of("COALESCE({}, {})", self.column("t"), below()),
            lambda: self.of("CASE WHEN {} THEN {} ELSE s END", self.comparison(0), below()),
            lambda: _same(
                f"CAST({self.choose(['a', 'big', 'num', 'dbl', 'f', 'uid', 's'])} AS text)"
            ),
            lambda: _same(self.choose(["(j ->> 'k')", "(j ->> 'p')", "(j -> 'list' ->> 1)"])),
            lambda: _same("CAST(CAST(ts AS date) AS text)"),
        )

    def instant(self) -> Both:
        text = self.choose(_TS)
        return self.pick(
            lambda: self.value(text, f"TIMESTAMPTZ {quoted(text)}", "::timestamptz"),
            lambda: _same(f"CAST({quoted(text)} AS timestamptz)"),
        )

    def time(self) -> Both:
        return self.pick(
            lambda: self.column("ts"),
            lambda: self.column("ts"),
            lambda: self.column("day"),
            self.instant,
            lambda: _same(f"DATE {quoted(self.choose(_DAY))}"),
            lambda: _same("CAST(ts AS date)"),
            lambda: Both("CAST(s AS timestamptz)", "pg_temp.try_timestamptz(s)"),
            lambda: Both("t::date", "pg_temp.try_date(t)"),
        )

    def uuid_constant(self) -> Both:
        text = self.choose(_UID)
        return self.value(text, quoted(text), "::uuid")

    def uuid(self) -> Both:
        return self.pick(
            lambda: self.column("uid"),
            lambda: self.column("uid"),
            lambda: self.of("CAST({} AS uuid)", _same(quoted(self.choose(_UID)))),
            lambda: Both("CAST(s AS uuid)", "pg_temp.try_uuid(s)"),
        )
