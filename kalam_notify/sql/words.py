"""The words of the language, and what to say about those that are not in it."""

from collections.abc import Iterable
from difflib import get_close_matches


def _each(words: str, meaning: str) -> dict[str, str]:
    return dict.fromkeys(words.split(), meaning)


_KEYWORDS = """
    SELECT FROM WHERE AND OR NOT IN BETWEEN LIKE ILIKE ESCAPE IS NULL TRUE FALSE DISTINCT CASE WHEN
    THEN ELSE END AS ANY ALL ARRAY CAST
"""
KEYWORDS = {word: word for word in _KEYWORDS.split()} | {"SOME": "ANY"}

# Name -> (fewest, most) arguments; None: no upper bound.
FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "ABS": (1, 1),
    "CLAIM": (1, 1),
    "COALESCE": (1, None),
    "CURRENT_USER": (0, 0),
    "LENGTH": (1, 1),
    "LOWER": (1, 1),
    "LTRIM": (1, 2),
    "NULLIF": (2, 2),
    "RTRIM": (1, 2),
    "SUBSTR": (2, 3),
    "SUBSTRING": (2, 3),
    "TRIM": (1, 2),
    "UPPER": (1, 1),
}

_AS_A_NAME = "write it in double quotes where it is a column's name"
_ONE_TABLE = "a live query reads one table: SELECT columns FROM namespace.table WHERE condition"
_NO_ORDER = "rows arrive in the order of their changes; sort them in the client"
_NO_AGGREGATE = "live queries deliver rows, not aggregates"
_NO_LIMIT = 'a subscription is not cut off; the option "last_rows" bounds what it begins with'
_READ_ONLY = f"only SELECT is understood ({_AS_A_NAME})"
_OWN_ROW = "a change is judged by its own row alone, and could not be judged again"
NO_CLOCK = f"{_OWN_ROW} when time has passed; send the time as a parameter"
NO_CHANCE = f"{_OWN_ROW} with the same outcome"

CURE_BY_FUNCTION = {
    **_each(
        "NOW CLOCK_TIMESTAMP STATEMENT_TIMESTAMP TRANSACTION_TIMESTAMP TIMEOFDAY AGE", NO_CLOCK
    ),
    **_each("CURRENT_TIMESTAMP CURRENT_DATE CURRENT_TIME LOCALTIME LOCALTIMESTAMP", NO_CLOCK),
    **_each("GETDATE SYSDATE UNIX_TIMESTAMP", NO_CLOCK),
    **_each("RANDOM RAND GEN_RANDOM_UUID UUID_GENERATE_V4 NEXTVAL", NO_CHANCE),
    **_each("COUNT SUM AVG MIN MAX ARRAY_AGG STRING_AGG JSON_AGG", _NO_AGGREGATE),
    **_each("ROW_NUMBER RANK DENSE_RANK LAG LEAD", _NO_AGGREGATE),
}
CURE_BY_WORD = {
    **_each("JOIN INNER LEFT RIGHT FULL OUTER CROSS NATURAL USING ON LATERAL", _ONE_TABLE),
    **_each("TABLESAMPLE UNION INTERSECT EXCEPT WITH RECURSIVE TABLE VALUES INTO", _ONE_TABLE),
    **_each("ORDER ASC DESC", f"ORDER BY is not supported: {_NO_ORDER} ({_AS_A_NAME})"),
    **_each("LIMIT OFFSET FETCH", f"{_NO_LIMIT} ({_AS_A_NAME})"),
    **_each("GROUP HAVING WINDOW QUALIFY", f"{_NO_AGGREGATE} ({_AS_A_NAME})"),
    **_each("INSERT UPDATE DELETE CREATE DROP ALTER GRANT REVOKE MERGE", _READ_ONLY),
    **_each("SIMILAR GLOB RLIKE REGEXP", "use LIKE"),
    **_each("SYMMETRIC ASYMMETRIC", "write BETWEEN low AND high"),
    **_each("CURRENT_TIMESTAMP CURRENT_DATE CURRENT_TIME LOCALTIME LOCALTIMESTAMP", NO_CLOCK),
    **_each("SESSION_USER USER", f"write CURRENT_USER ({_AS_A_NAME})"),
    **_each("ANALYZE ANALYSE CHECK COLUMN CONSTRAINT DEFAULT DEFERRABLE DO FOREIGN", _AS_A_NAME),
    **_each("INITIALLY ONLY OVERLAPS PLACING PRIMARY REFERENCES RETURNING TO UNIQUE", _AS_A_NAME),
    **_each("VARIADIC VERBOSE", _AS_A_NAME),
    "CURRENT_USER": "",
    "EXISTS": "subqueries are not supported; write the values in an IN list",
    "EXPLAIN": "EXPLAIN is not for subscriptions; use `kalam-notify explain`",
    "COLLATE": "text compares by code point",
    "ISNULL": "write IS NULL",
    "NOTNULL": "write IS NOT NULL",
    "INTERVAL": "compare with a TIMESTAMP '...' computed by the client",
    "BOTH": "write TRIM(text, characters)",
    "LEADING": "write LTRIM(text, characters)",
    "TRAILING": "write RTRIM(text, characters)",
    "FOR": "there are no locks, and SUBSTRING ... FOR is SUBSTR(text, start, length)",
}

_PARAMETER = 'write $1, $2, ... and send the values as "params"'
CURE_BY_CHARACTER = {
    ":": _PARAMETER,
    "@": _PARAMETER,
    "$": _PARAMETER,
    "`": "write names in double quotes",
    "!": "write NOT or <>",
    "~": "use LIKE",
    "\\": "a backslash has no meaning outside a string",
    "|": "text is joined by ||; there are no bit operators",
    "&": "write AND; there are no bit operators",
    "^": "there is no power operator",
    "#": "JSON paths are written with -> and ->>",
    "{": "JSON is written in a string: data @> '{\"a\": 1}'",
}
CURE_BY_SYMBOL = {
    "SELECT": "a second SELECT: subqueries and unions are not supported; use an IN list",
    "?": _PARAMETER,
    "<@": "write it the other way round, with @>",
    "?|": "write data ? 'a' OR data ? 'b'",
    "?&": "write data ? 'a' AND data ? 'b'",
    "#>": "write one -> for each step: data -> 'a' -> 'b'",
    "#>>": "write one -> for each step and ->> for the last: data -> 'a' ->> 'b'",
    "[": "an element is data -> 0, an array of values ARRAY[1, 2]",
    "::": "a cast stands after a value: x::numeric",
    "+": "a sign is - only; leave the + out",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The phrase that offers the known name most like `name`; None when none is alike."""
    candidates = list(known)
    close = get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close:
        lowered = {candidate.lower(): candidate for candidate in candidates}
        close = [lowered[name.lower()]] if name.lower() in lowered else []
    return f"did you mean {close[0]}?" if close else None
