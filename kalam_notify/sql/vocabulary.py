"""The words and symbols of the language, and what to say about those that are not in it."""

from collections.abc import Iterable
from difflib import get_close_matches

from sqlglot.tokens import TokenType

SYMBOLS = {
    "(": TokenType.L_PAREN,
    ")": TokenType.R_PAREN,
    ",": TokenType.COMMA,
    ".": TokenType.DOT,
    ";": TokenType.SEMICOLON,
    "=": TokenType.EQ,
    "<>": TokenType.NEQ,
    "!=": TokenType.NEQ,
    "<": TokenType.LT,
    "<=": TokenType.LTE,
    ">": TokenType.GT,
    ">=": TokenType.GTE,
    "+": TokenType.PLUS,
    "-": TokenType.DASH,
    "*": TokenType.STAR,
    "/": TokenType.SLASH,
    "%": TokenType.MOD,
    "||": TokenType.DPIPE,
    "->": TokenType.ARROW,
    "->>": TokenType.DARROW,
}

KEYWORDS = {
    word: TokenType[word]
    for word in (
        "SELECT FROM WHERE AND OR NOT IN BETWEEN LIKE ILIKE ESCAPE IS NULL TRUE FALSE DISTINCT "
        "CASE WHEN THEN ELSE END"
    ).split()
} | {"AS": TokenType.ALIAS}

# Name -> (fewest, most) arguments; None: no upper bound.
FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "ABS": (1, 1),
    "CLAIM": (1, 1),
    "COALESCE": (1, None),
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

TIMESTAMP_TYPES = {
    "TIMESTAMP": TokenType.TIMESTAMP,
    "TIMESTAMP WITHOUT TIME ZONE": TokenType.TIMESTAMP,
    "TIMESTAMPTZ": TokenType.TIMESTAMPTZ,
    "TIMESTAMP WITH TIME ZONE": TokenType.TIMESTAMPTZ,
}

_ONE_TABLE = "a live query reads one table: SELECT columns FROM namespace.table WHERE condition"
_NO_ORDER = "rows arrive in the order of their changes; sort them in the client"
_NO_AGGREGATE = "live queries deliver rows, not aggregates"
_NO_SUBQUERY = "subqueries are not supported; write the values in an IN list"
_READ_ONLY = "only SELECT is understood"
_AS_A_NAME = "write it in double quotes where it is a column's name"

CURE_BY_WORD = {
    **dict.fromkeys(
        "JOIN INNER LEFT RIGHT FULL OUTER CROSS NATURAL USING ON LATERAL TABLESAMPLE".split(),
        _ONE_TABLE,
    ),
    **dict.fromkeys("UNION INTERSECT EXCEPT WITH RECURSIVE TABLE VALUES INTO".split(), _ONE_TABLE),
    **dict.fromkeys(
        "ORDER ASC DESC".split(), f"ORDER BY is not supported: {_NO_ORDER} ({_AS_A_NAME})"
    ),
    **dict.fromkeys(
        "LIMIT OFFSET FETCH".split(), 'a subscription is not cut off; use the option "last_rows"'
    ),
    **dict.fromkeys("GROUP HAVING WINDOW QUALIFY".split(), f"{_NO_AGGREGATE} ({_AS_A_NAME})"),
    "ALL": "write a plain comparison or an IN list",
    **dict.fromkeys("ANY SOME".split(), "write an IN list"),
    "EXISTS": _NO_SUBQUERY,
    **dict.fromkeys(
        "INSERT UPDATE DELETE CREATE DROP ALTER GRANT REVOKE MERGE".split(),
        f"{_READ_ONLY} ({_AS_A_NAME})",
    ),
    "EXPLAIN": "EXPLAIN is not for subscriptions; use `kalam-notify explain`",
    "COLLATE": "text compares by code point",
    "SIMILAR": "use LIKE",
    "GLOB": "use LIKE",
    "RLIKE": "use LIKE",
    "REGEXP": "use LIKE",
    "ISNULL": "write IS NULL",
    "NOTNULL": "write IS NOT NULL",
    "INTERVAL": "compare with a TIMESTAMP '...' computed by the client",
    "ARRAY": "arrays cannot be written",
    "BOTH": "write TRIM(text, characters)",
    "LEADING": "write LTRIM(text, characters)",
    "TRAILING": "write RTRIM(text, characters)",
    "SYMMETRIC": "write BETWEEN low AND high",
    "ASYMMETRIC": "write BETWEEN low AND high",
    "FOR": "locks and SUBSTRING ... FOR are not supported; write SUBSTR(text, start, length)",
    **dict.fromkeys(
        "CURRENT_TIMESTAMP CURRENT_DATE CURRENT_TIME LOCALTIME LOCALTIMESTAMP".split(),
        "a live query cannot depend on the clock; compare with a TIMESTAMP '...'",
    ),
    **dict.fromkeys("SESSION_USER USER".split(), f"write CURRENT_USER ({_AS_A_NAME})"),
    **dict.fromkeys(
        (
            "ANALYZE ANALYSE CHECK COLUMN CONSTRAINT DEFAULT DEFERRABLE DO FOREIGN INITIALLY ONLY "
            "OVERLAPS PLACING PRIMARY REFERENCES RETURNING TO UNIQUE VARIADIC VERBOSE"
        ).split(),
        _AS_A_NAME,
    ),
}

_PLACEHOLDER = "placeholders are not supported; write the value itself"
CURE_BY_CHARACTER = {
    "::": "write CAST(x AS TIMESTAMP)",
    ":": _PLACEHOLDER,
    "?": _PLACEHOLDER,
    "@": _PLACEHOLDER,
    "$": _PLACEHOLDER,
    "`": "write names in double quotes",
    "[": "write names in double quotes and JSON paths with ->",
    "!": "write NOT or <>",
    "~": "use LIKE",
    "\\": "a backslash has no meaning outside a string",
    "|": "text is joined by ||; there are no bit operators",
    "&": "write AND; there are no bit operators",
    "^": "there is no power operator",
    "#": "JSON paths are written with -> and ->>",
    "{": "braces have no meaning here",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The phrase that offers the known name most like `name`; None when none is alike."""
    candidates = list(known)
    close = get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close:
        lowered = {candidate.lower(): candidate for candidate in candidates}
        close = [lowered[name.lower()]] if name.lower() in lowered else []
    return f"did you mean {close[0]}?" if close else None
