"""Tokens -> expressions: a Pratt parser.

Operands: names, literals, parameters, calls, CASE, CAST, and what stands in parentheses.

An operand is read, then operators as long as they bind tighter than what asked for the operand.
The order is PostgreSQL's, from loose to tight: OR, AND, NOT, IS, comparison, LIKE/IN/BETWEEN, `||`
and `->` and their like, + -, * / %, unary minus, `::`. Chains of one operator are loops, so only
what stands inside something else (a parenthesis, NOT, minus, CASE) takes a step down, and those are
counted: the recursion is bounded by MAX_DEPTH times the levels above.

Why our own, and by hand: the language is the product, so what is met and what would cure it have to
be said in its words; the nearest library with a strict tree costs 16-116 ms a query, this one a
microsecond or two a token.
"""

from collections.abc import Callable
from typing import NoReturn

from kalam_notify.model.readings import MAX_DIGITS, decimal_of
from kalam_notify.model.types import UnknownType, parse_type
from kalam_notify.sql.lexer import MAX_DEPTH, Reader
from kalam_notify.sql.like import BadPattern, compile_like
from kalam_notify.sql.operators import FUNCTIONS as OPERATIONS
from kalam_notify.sql.tree import (
    FALSE,
    NULL,
    TRUE,
    Call,
    Constant,
    Expression,
    Name,
    Parameter,
    words,
)
from kalam_notify.sql.words import CURE_BY_FUNCTION, FUNCTIONS, nearest

MAX_LIST = 10_000
MAX_PARAMETER = 1000
MAX_NAME_BYTES = 255

OR, AND, NOT, IS, COMPARE, LIKE, OTHER, SUM, PRODUCT, MINUS, CAST = range(1, 12)
"""How tight operators bind."""

_FIXED = {"TRUE": TRUE, "FALSE": FALSE, "NULL": NULL}
_CASTS = "numeric, integer, bigint, double precision, boolean, text, date, timestamp, time or uuid"
_CAST_TO: dict[str, tuple[str, tuple[Expression, ...]]] = {
    **{
        kind: ("integer", (Constant("int", bits),))
        for kind, bits in (("SmallInt", 16), ("Int", 32), ("BigInt", 64))
    },
    **dict.fromkeys(("Timestamp", "DateTime"), ("timestamp", ())),
    **{
        kind: (kind.lower(), ())
        for kind in ["Double", "Boolean", "Text", "Date", "Time", "Uuid", "Json"]
    },
    "Float": ("real", ()),
}
_TYPE_WORDS = frozenset(("PRECISION", "VARYING", "WITH", "WITHOUT", "TIME", "ZONE"))
_EXAMPLES = {"timestamp": "2024-05-01T12:00:00Z", "date": "2024-05-01", "time": "12:30:00"}


class Operands(Reader):
    """What an operator stands between; `expression` is the grammar's."""

    def expression(self, least: int = 0) -> Expression:
        raise NotImplementedError

    def condition(self, least: int = 0) -> Expression:
        raise NotImplementedError

    def operand(self) -> Expression:
        """The operand that stands here."""
        read = _READERS.get(self.kinds[self.at])
        return self.unreadable() if read is None else read(self)

    def unreadable(self) -> NoReturn:
        before = self.text(self.at - 1) if self.at else ""
        if self.kinds[self.at] in ("ANY", "ALL"):
            self.unexpected("a value (ANY stands after = only)")
        self.unexpected(f"a value after {before[:20]!r}" if before else "a value")

    # --- literals

    def number(self) -> Expression:
        text = self.text(self.at)
        if len(text) > MAX_DIGITS:
            self.refuse(f"a number of {len(text)} characters; at most {MAX_DIGITS} are read")
        if text.isdigit():
            return self.constant("int", int(text))
        value = decimal_of(text)
        if value is None:
            self.refuse(f"{text[:40]} is out of the range of numbers")
        return self.constant("decimal", value)

    def string(self) -> Expression:
        return self.constant("text", self.text(self.at))

    def fixed(self) -> Expression:
        self.terms += 1
        self.at += 1
        return _FIXED[self.kinds[self.at - 1]]

    def parameter(self) -> Expression:
        number = int(self.written[self.at][1:10])
        if not 1 <= number <= MAX_PARAMETER:
            self.refuse(f"parameters are $1, $2, ... ${MAX_PARAMETER}")
        self.parameters = max(self.parameters, number)
        found = Parameter(number, self.at)
        self.at += 1
        self.terms += 1
        return found

    def minus(self) -> Expression:
        at = self.at
        self.at += 1
        self.deeper()
        operand = self.expression(MINUS)
        self.depth -= 1
        if isinstance(operand, Constant) and operand.kind in ("int", "decimal"):
            # The operator of decimals would round.
            is_int = operand.kind == "int"
            self.terms -= 1
            self.at -= 1
            return self.constant(
                operand.kind, -operand.value if is_int else operand.value.copy_negate()
            )
        return self.call("neg", (operand,), at)

    # --- what holds other expressions

    def group(self) -> Expression:
        opening = self.at
        self.at += 1
        self.deeper()
        found = self.expression()
        self.depth -= 1
        kind = self.kinds[self.at]
        if kind == ")":
            self.at += 1
            return found
        if kind == ",":
            self.refuse("a list in parentheses stands after IN only")
        if kind == "end":
            self.refuse("( is not closed", opening)
        return self.unexpected("an operator or ) (there is no operator before this)")

    def members(self, opening: str, closing: str) -> tuple[Expression, ...]:
        """Values between brackets; a list of constants alone is one term."""
        self.take(opening, opening)
        self.deeper()
        terms = self.terms
        if self.kinds[self.at] == closing:
            self.unexpected("a list of values: at least one")
        found = [self.expression(NOT)]
        while self.kinds[self.at] == ",":
            self.at += 1
            found.append(self.expression(NOT))
        self.take(closing, f"a comma or {closing} after a value")
        self.depth -= 1
        if len(found) > MAX_LIST:
            self.refuse(f"a list of {len(found)} values; at most {MAX_LIST} are taken")
        if all(member.__class__ is Constant for member in found):
            self.terms = terms + 1
        else:
            self.repeats = True
        return tuple(found)

    def negation(self) -> Expression:
        at = self.at
        self.at += 1
        self.deeper()
        found = self.condition(NOT)
        self.depth -= 1
        return self.call("not", (found,), at)

    def case(self) -> Expression:
        """Both forms of CASE; `CASE a WHEN b` compares a = b."""
        at = self.at
        self.at += 1
        self.deeper()
        has_subject = self.kinds[self.at] not in ("WHEN", "END")
        subject = self.expression() if has_subject else None
        self.repeats = True
        parts: list[Expression] = []
        if self.kinds[self.at] != "WHEN":
            self.unexpected("WHEN: CASE WHEN condition THEN value END")
        while self.skip("WHEN"):
            if subject is None:
                parts.append(self.condition())
            else:
                parts.append(self.call("=", (subject, self.expression()), at))
            self.take("THEN", "THEN: CASE WHEN condition THEN value END (THEN is missing)")
            parts.append(self.expression())
        parts.append(self.expression() if self.skip("ELSE") else NULL)
        if self.kinds[self.at] == "end":
            self.refuse("CASE is not closed; END is missing", at)
        self.take("END", "WHEN, ELSE or END")
        self.depth -= 1
        return self.call("case", tuple(parts), at)

    def array(self) -> Expression:
        at = self.at
        self.at += 1
        return self.call("array", self.members("[", "]"), at)

    # --- casts

    def cast(self) -> Expression:
        at = self.at
        self.at += 1
        self.take("(", "( after CAST: CAST(x AS numeric)")
        self.deeper()
        operand = self.expression()
        self.take("AS", "AS: CAST(x AS numeric)")
        found = self.cast_to(operand, at)
        self.take(")", ") after the type of a CAST")
        self.depth -= 1
        return found

    def cast_to(self, operand: Expression, at: int) -> Expression:
        """The cast of an operand to the type that stands here."""
        start = self.at
        if self.kinds[start] not in ("name", "word"):
            self.unexpected(f"a type: {_CASTS}")
        self.at += 1
        words = [self.text(start), *self.type_words()]
        sizes = self.sizes() if self.skip("(") else []
        words += self.type_words()
        return self.converted(operand, " ".join(words).lower(), sizes, start, at)

    def type_words(self) -> list[str]:
        start = self.at
        while self.kinds[self.at] in ("name", "word") and self.text(self.at).upper() in _TYPE_WORDS:
            self.at += 1
        return [self.text(at) for at in range(start, self.at)]

    def sizes(self) -> list[int]:
        sizes: list[int] = []
        while self.kinds[self.at] == "number" and self.text(self.at).isdigit() and len(sizes) < 2:
            sizes.append(int(self.text(self.at)[:9]))
            self.at += 1
            self.skip(",")
        self.take(")", "a size such as (12,2) and )")
        return sizes

    def converted(
        self, operand: Expression, words: str, sizes: list[int], start: int, at: int
    ) -> Call:
        """The cast to the type that the words say; `start` is the place of the type."""
        try:
            # SQL's FLOAT is a double; the type of that name is not.
            kind = "Double" if words == "float" and not sizes else parse_type(words).kind
        except UnknownType:
            kind = ""
        if kind == "Decimal":
            if sizes and not (1 <= sizes[0] <= MAX_DIGITS and sum(sizes[1:]) <= sizes[0]):
                self.refuse("numeric(precision, scale): 1 to 1000 digits", start)
            size = tuple(Constant("int", part) for part in (*sizes, 0)[:2]) if sizes else ()
            return self.call("numeric", (operand, *size), at)
        if kind not in _CAST_TO or sizes:
            cure = "; a cast takes no length" if kind in _CAST_TO else ""
            self.refuse(f"no cast to {words}{cure}; cast to {_CASTS}", start)
        op, more = _CAST_TO[kind]
        return self.call(op, (operand, *more), at)

    def typed_literal(self) -> Expression:
        """`TIMESTAMP '...'`: refused where the text is none."""
        at, word = self.at, self.text(self.at)
        try:
            parse_type(word)
        except UnknownType:
            self.refuse(f"a string with the prefix {word[:20]}; write a plain string '...'")
        self.at += 1
        found = self.converted(self.string(), word.lower(), [], at, at)
        text, *rest = (arg.value for arg in found.args if isinstance(arg, Constant))
        if found.op != "json" and OPERATIONS[found.op](text, *rest) is None:
            example = _EXAMPLES.get(found.op)
            cure = f"; write ISO 8601: '{example}'" if example else ""
            self.refuse(f"{text[:60]!r} is no {word.upper()}{cure}", at)
        return found

    # --- names and functions

    def name(self) -> Expression:
        """A column, a function's call, or a typed literal."""
        if self.kinds[self.at] == "name":
            following = self.kinds[self.at + 1]
            if following == "(":
                return self.function()
            if following == "string":
                return self.typed_literal()
        return self.named()

    def named(self) -> Expression:
        at = self.at
        text = self.written[at]
        is_plain = self.kinds[at] == "name" and text[0] != "_" and len(text) < 64
        if is_plain and self.kinds[at + 1] != ".":
            # Nothing to check: as nearly all of them are.
            self.at += 1
            found = Name(text, (), at)
        else:
            found = self.column()
        self.names.append(found)
        self.terms += 1
        return found

    def column(self, *, star: bool = False) -> Name:
        """A column's name with what qualifies it; after a point every word is a name.

        A `*` in its place, where one may stand, is the empty name.
        """
        at = self.at
        name = self.identifier()
        if self.kinds[self.at] != ".":
            return Name(name, (), at)
        parts = [name]
        while self.skip("."):
            if star and self.skip("*"):
                return Name("", tuple(parts), at)
            parts.append(self.identifier(after_point=True))
        if len(parts) > 3:
            self.refuse("a name of four parts; write column, table.column or ns.table.column")
        return Name(parts[-1], tuple(parts[:-1]), at)

    def identifier(self, *, after_point: bool = False) -> str:
        kind, text = self.kinds[self.at], self.text(self.at)
        if kind != "name" and kind != "quoted":
            is_word = kind == "word" or (kind.isalpha() and kind.isupper())
            if not (after_point and is_word):
                self.unexpected("a name")
        if text.startswith("_"):
            self.refuse(f"{text[:40]}: names that start with _ belong to the server")
        if kind == "quoted":
            self.check_quoted(text)
        if len(text) > 63 and len(text.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            self.refuse(f"a name of more than {MAX_NAME_BYTES} bytes")
        self.at += 1
        return text

    def check_quoted(self, text: str) -> None:
        if not text:
            self.refuse("an empty name")
        if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
            self.refuse("a name with a control character")

    def reserved(self) -> Expression:
        """A word that SQL reserves: CURRENT_USER, or the beginning of what is not ours."""
        word = self.text(self.at).upper()
        if word != "CURRENT_USER":
            if word in CURE_BY_FUNCTION:
                self.refuse(f"unexpected {word}; {CURE_BY_FUNCTION[word]}")
            return self.unreadable()
        at = self.at
        self.at += 1
        self.terms += 1
        if self.skip("("):
            self.take(")", ") after CURRENT_USER(")
        return self.call("current_user", (), at)

    def function(self) -> Expression:
        at, word = self.at, self.text(self.at).upper()
        if word not in FUNCTIONS:
            cure = CURE_BY_FUNCTION.get(word) or nearest(word, FUNCTIONS)
            self.refuse(f"unknown function {self.text(at)[:40]}{f'; {cure}' if cure else ''}")
        self.at += 2
        args = self.arguments(word)
        fewest, most = FUNCTIONS[word]
        if len(args) < fewest or (most is not None and len(args) > most):
            takes = str(fewest) if most == fewest else f"{fewest} to {most or 'any number'}"
            self.refuse(f"{word} with {len(args)} arguments; it takes {takes}", at)
        if word == "CLAIM" and getattr(args[0], "kind", "") != "text":
            self.refuse("CLAIM takes the claim's name as a string: CLAIM('tenant')", at)
        return self.call("substr" if word == "SUBSTRING" else word.lower(), args, at)

    def arguments(self, word: str) -> tuple[Expression, ...]:
        self.deeper()
        args: list[Expression] = []
        if self.kinds[self.at] != ")":
            args.append(self.expression())
            while self.skip(","):
                args.append(self.expression())
        self.take(")", f"a comma or ) in the arguments of {word}")
        self.depth -= 1
        return tuple(args)


_READERS: dict[str, Callable[[Operands], Expression]] = {
    "name": Operands.name,
    "quoted": Operands.name,
    "word": Operands.reserved,
    "number": Operands.number,
    "string": Operands.string,
    "param": Operands.parameter,
    "TRUE": Operands.fixed,
    "FALSE": Operands.fixed,
    "NULL": Operands.fixed,
    "(": Operands.group,
    "NOT": Operands.negation,
    "-": Operands.minus,
    "CASE": Operands.case,
    "CAST": Operands.cast,
    "ARRAY": Operands.array,
}


_POWER = {"OR": OR, "AND": AND, "IS": IS, "::": CAST}
_POWER |= dict.fromkeys(("=", "<>", "!=", "<", "<=", ">", ">="), COMPARE)
_POWER |= dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), LIKE)
_POWER |= dict.fromkeys(("||", "->", "->>", "@>", "?"), OTHER)
_POWER |= {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "%": PRODUCT}
# Operators whose value is never a condition.
_VALUES = words("+ - * / % neg || ->> array numeric integer double real text timestamp date time")
_VALUES |= words("uuid lower upper length abs trim ltrim rtrim substr")
_TESTS = {"NULL": "is null", "TRUE": "is true", "FALSE": "is false", "UNKNOWN": "is unknown"}


class Grammar(Operands):
    """Reads expressions out of tokens."""

    def expression(self, least: int = 0) -> Expression:
        """An expression of operators that bind tighter than `least`."""
        kinds, powers = self.kinds, _POWER
        left = self.operand()
        steps = 0
        while True:
            kind = kinds[self.at]
            power = powers.get(kind, 0)
            if power <= least:
                return left
            if power in (AND, OR):
                left = self.connective(kind, power, left)
            elif power >= OTHER and power != CAST:
                at = self.at
                self.at += 1
                left = self.call(kind, (left, self.expression(power)), at)
            elif power == COMPARE:
                left = self.comparison(left)
            else:
                left = _INFIXES[kind](self, left)
                steps += 1
                if steps > MAX_DEPTH:
                    self.refuse(f"nested too deeply: more than {MAX_DEPTH} {kind} in a row")

    def condition(self, least: int = 0) -> Expression:
        """An expression that can be TRUE or FALSE."""
        start = self.at
        return self.as_condition(self.expression(least), start)

    def as_condition(self, found: Expression, start: int) -> Expression:
        if found.__class__ is Constant:
            wrong = found.kind not in ("bool", "null")
        else:
            wrong = found.__class__ is Call and found.op in _VALUES
        if wrong:
            met = self.written[start][:40]
            self.refuse(
                f"{met!r} begins a value, not a condition; compare it with something", start
            )
        return found

    def connective(self, kind: str, power: int, left: Expression) -> Expression:
        at = self.at
        operands = [self.as_condition(left, at - 1)]
        while self.kinds[self.at] == kind:
            self.at += 1
            operands.append(self.condition(power))
        return self.call(kind.lower(), tuple(operands), at)

    def comparison(self, left: Expression) -> Expression:
        """A comparison; after `=` and `<>` ANY or ALL may stand in the place of the right side."""
        at = self.at
        kind = self.kinds[at]
        if kind == "!=":
            kind = "<>"
        self.at += 1
        after = self.kinds[self.at]
        if after != "ANY" and after != "ALL":
            return self.call(kind, (left, self.expression(COMPARE)), at)
        if (kind, after) not in (("=", "ANY"), ("<>", "ALL")):
            self.unexpected("a value here: only = ANY(...) and <> ALL(...) are understood")
        self.at += 1
        found = self.quantified(left, at)
        return found if after == "ANY" else self.call("not", (found,), at)

    def quantified(self, left: Expression, at: int) -> Call:
        self.take("(", "( after ANY: x = ANY($1)")
        self.deeper()
        if self.skip("ARRAY"):
            found = self.call("in", (left, *self.members("[", "]")), at)
        else:
            found = self.call("any", (left, self.expression()), at)
        self.take(")", ") after ANY(...")
        self.depth -= 1
        return found

    def test(self, left: Expression) -> Expression:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN, DISTINCT FROM."""
        at = self.at
        self.at += 1
        negated = self.skip("NOT")
        if self.skip("DISTINCT"):
            self.take("FROM", "FROM: a IS DISTINCT FROM b")
            found = self.call("distinct", (left, self.expression(COMPARE)), at)
        else:
            is_word = self.kinds[self.at] != "quoted"
            op = _TESTS.get(self.text(self.at).upper()) if is_word else None
            if op is None:
                wanted = "NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM after IS"
                self.unexpected(f"{wanted} (use = for values)")
            self.at += 1
            operand = left if op == "is null" else self.as_condition(left, at - 1)
            found = self.call(op, (operand,), at)
        return self.call("not", (found,), at) if negated else found

    def likeness(self, left: Expression) -> Expression:
        """[NOT] IN, BETWEEN, LIKE, ILIKE."""
        at = self.at
        negated = self.skip("NOT")
        kind = self.kinds[self.at]
        self.at += 1
        if kind == "IN":
            if self.kinds[self.at] != "(":
                self.unexpected("a list of values in parentheses after IN, or = ANY($1)")
            found = self.call("in", (left, *self.members("(", ")")), at)
        elif kind == "BETWEEN":
            found = self.between(left, at)
        elif kind == "LIKE" or kind == "ILIKE":
            found = self.pattern(kind.lower(), left, at)
        else:
            self.at -= 1
            self.unexpected("IN, BETWEEN or LIKE after NOT (IS is missing before NOT NULL)")
        return self.call("not", (found,), at) if negated else found

    def between(self, left: Expression, at: int) -> Call:
        self.repeats = True
        low = self.expression(LIKE)
        self.take("AND", "AND: a BETWEEN low AND high (AND is missing)")
        lower = self.call(">=", (left, low), at)
        upper = self.call("<=", (left, self.expression(LIKE)), at)
        return self.call("and", (lower, upper), at)

    def pattern(self, op: str, left: Expression, at: int) -> Call:
        args: tuple[Expression, ...] = (left, self.expression(LIKE))
        if self.skip("ESCAPE"):
            if self.kinds[self.at] != "string" or len(self.text(self.at)) != 1:
                self.unexpected("one character after ESCAPE: LIKE '10!%' ESCAPE '!'")
            args = (*args, self.string())
            self.terms -= 1
        pattern, *escape = (arg.value if isinstance(arg, Constant) else None for arg in args[1:])
        if isinstance(pattern, str) and (escape or "_" in pattern):
            try:
                compile_like(pattern, *(escape or [None]), fold_case=False)
            except BadPattern as error:
                self.refuse(f"LIKE pattern: {error}", at)
        return self.call(op, args, at)

    def conversion(self, left: Expression) -> Expression:
        at = self.at
        self.at += 1
        return self.cast_to(left, at)


_INFIXES: dict[str, Callable[[Grammar, Expression], Expression]] = {
    "IS": Grammar.test,
    "::": Grammar.conversion,
    **dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), Grammar.likeness),
}
