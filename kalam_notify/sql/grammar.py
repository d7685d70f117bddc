"""Tokens -> expressions: a Pratt parser.

An operand is read, then operators as long as they bind tighter than what asked for the operand.
The order is PostgreSQL's, from loose to tight: OR, AND, NOT, IS, comparison, LIKE/IN/BETWEEN, `||`
and `->` and their like, + -, * / %, unary minus, `::`. Chains of one operator are loops, so only
what stands inside something else (a parenthesis, NOT, minus, CASE) takes a step down, and those are
counted: the recursion is bounded by MAX_DEPTH and by the number of levels above.
"""

from collections.abc import Callable
from typing import NoReturn

from kalam_notify.model.readings import MAX_DIGITS, decimal_of
from kalam_notify.model.types import UnknownType, parse_type
from kalam_notify.sql.lexer import Tokens
from kalam_notify.sql.like import BadPattern, compile_like
from kalam_notify.sql.operators import FUNCTIONS as FUNCTIONS_OF_VALUES
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
from kalam_notify.sql.words import (
    CURE_BY_FUNCTION,
    CURE_BY_SYMBOL,
    CURE_BY_WORD,
    FUNCTIONS,
    nearest,
)

MAX_DEPTH = 64
MAX_LIST = 10_000
MAX_NAME_BYTES = 255

_OR, _AND, _NOT, _IS, _COMPARE, _LIKE, _OTHER, _SUM, _PRODUCT, _MINUS, _CAST = range(1, 12)
_POWER = {"OR": _OR, "AND": _AND, "IS": _IS, "::": _CAST}
_POWER |= dict.fromkeys(("=", "<>", "!=", "<", "<=", ">", ">="), _COMPARE)
_POWER |= dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), _LIKE)
_POWER |= dict.fromkeys(("||", "->", "->>", "@>", "?"), _OTHER)
_POWER |= {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT}
_PLAIN = words("|| -> ->> @> ? + - * / %")
# Operators whose value is never a condition.
_VALUES = words("+ - * / % neg || ->> array numeric integer double real text timestamp")
_VALUES |= words("date time uuid lower upper length abs trim ltrim rtrim substr")
_TESTS = {"NULL": "is null", "TRUE": "is true", "FALSE": "is false", "UNKNOWN": "is unknown"}
_CASTS = "numeric, integer, bigint, double precision, boolean, text, date, timestamp, time or uuid"
_CAST_OF = {"SmallInt": 16, "Int": 32, "BigInt": 64} | {
    "Float": "real",
    "Double": "double",
    "Boolean": "boolean",
    "Text": "text",
    "Date": "date",
    "Timestamp": "timestamp",
    "DateTime": "timestamp",
    "Time": "time",
    "Uuid": "uuid",
    "Json": "json",
}
_TYPE_WORDS = words("PRECISION VARYING WITH WITHOUT TIME ZONE")


class Grammar:
    """Reads expressions out of tokens, and keeps what they name and where it stands."""

    def __init__(self, tokens: Tokens) -> None:
        self.source = tokens.source
        self.kinds, self.texts, self.starts = tokens.kinds, tokens.texts, tokens.starts
        self.at = 0
        self.depth = 0
        # Columns and constants; those of a list of constants count once.
        self.terms = 0
        self.names: list[Name] = []
        self.parameters = 0
        # id of a call or constant -> its place in the text.
        self.places: dict[int, int] = {}

    # --- refusals

    def refuse(self, message: str, offset: int | None = None) -> NoReturn:
        self.source.refuse(message, self.starts[self.at] if offset is None else offset)

    def unexpected(self, wanted: str) -> NoReturn:
        """Refuse the token that stands here: what was met, what was wanted, and the cure."""
        kind, text = self.kinds[self.at], self.texts[self.at]
        cure = CURE_BY_WORD.get(text.upper()) if kind == "word" else CURE_BY_SYMBOL.get(kind)
        if kind == "SELECT":
            cure = "a second SELECT: subqueries and unions are not supported; use an IN list"
        met = "the end" if kind == "end" else repr(text[:40])
        self.refuse(f"expected {wanted}, met {met}{f'; {cure}' if cure else ''}")

    def take(self, kind: str, wanted: str) -> None:
        if self.kinds[self.at] != kind:
            self.unexpected(wanted)
        self.at += 1

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"nested too deeply: more than {MAX_DEPTH} inside each other")

    # --- operators

    def condition(self, least: int = 0) -> Expression:
        """An expression that can be TRUE or FALSE."""
        start = self.at
        found = self.expression(least)
        if found.__class__ is Constant:
            wrong = found.kind not in ("bool", "null")
        else:
            wrong = found.__class__ is Call and found.op in _VALUES
        if wrong:
            offset = self.starts[start]
            met = self.source.text[offset : offset + 40].split()[0]
            self.refuse(f"{met!r} is a value, not a condition; compare it with something", offset)
        return found

    def expression(self, least: int = 0) -> Expression:
        kinds = self.kinds
        left = _PREFIXES.get(kinds[self.at], Grammar.unreadable)(self)
        steps = 0
        while True:
            kind = kinds[self.at]
            power = _POWER.get(kind, 0)
            if power <= least:
                return left
            offset = self.starts[self.at]
            if kind in _PLAIN:
                self.at += 1
                left = Call(kind, (left, self.expression(power)))
            elif kind == "AND" or kind == "OR":
                left = self.connective(kind, power, left)
            else:
                left = _INFIXES[kind](self, left)
                steps += 1
                if steps > MAX_DEPTH and kind in ("IS", "::"):
                    self.refuse(f"more than {MAX_DEPTH} {kind} one after another")
            self.places[id(left)] = offset

    def connective(self, kind: str, power: int, left: Expression) -> Expression:
        operands = [self.as_condition(left)]
        while self.kinds[self.at] == kind:
            self.at += 1
            operands.append(self.condition(power))
        return Call(kind.lower(), tuple(operands))

    def as_condition(self, left: Expression) -> Expression:
        if left.__class__ is Constant or (left.__class__ is Call and left.op in _VALUES):
            if left not in (TRUE, FALSE, NULL):
                self.refuse("the value before it is not a condition; compare it with something")
        return left

    def test(self, left: Expression) -> Expression:
        """IS [NOT] NULL, TRUE, FALSE, UNKNOWN, DISTINCT FROM."""
        self.at += 1
        negated = self.skip("NOT")
        kind = self.kinds[self.at]
        if kind == "DISTINCT":
            self.at += 1
            self.take("FROM", "FROM: a IS DISTINCT FROM b")
            found = Call("distinct", (left, self.expression(_COMPARE)))
        else:
            op = _TESTS.get(self.texts[self.at].upper()) if kind != "quoted" else None
            if op is None:
                self.unexpected(
                    "NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM after IS (use = for values)"
                )
            self.at += 1
            found = Call(op, (left if op == "is null" else self.as_condition(left),))
        return Call("not", (found,)) if negated else found

    def skip(self, kind: str) -> bool:
        found = self.kinds[self.at] == kind
        self.at += found
        return found

    def likeness(self, left: Expression) -> Expression:
        """[NOT] IN, BETWEEN, LIKE, ILIKE."""
        negated = self.skip("NOT")
        kind = self.kinds[self.at]
        if kind not in ("IN", "BETWEEN", "LIKE", "ILIKE"):
            self.unexpected("IN, BETWEEN or LIKE after NOT (IS is missing before NOT NULL)")
        self.at += 1
        if kind == "IN":
            found = self.membership(left)
        elif kind == "BETWEEN":
            found = self.between(left)
        else:
            found = self.pattern(kind.lower(), left)
        return Call("not", (found,)) if negated else found

    def membership(self, left: Expression) -> Call:
        if self.kinds[self.at] != "(":
            self.unexpected("a list of values in parentheses after IN, or = ANY($1)")
        return Call("in", (left, *self.members("(", ")")))

    def members(self, opening: str, closing: str) -> tuple[Expression, ...]:
        """Values between brackets; a list of constants alone is one term."""
        self.take(opening, opening)
        self.deeper()
        terms = self.terms
        if self.kinds[self.at] == closing:
            self.unexpected("a list of values: at least one")
        found = [self.expression(_NOT)]
        while self.skip(","):
            found.append(self.expression(_NOT))
        self.take(closing, f"a comma or {closing} after a value")
        self.depth -= 1
        if len(found) > MAX_LIST:
            self.refuse(f"a list of {len(found)} values; at most {MAX_LIST} are taken")
        if all(member.__class__ is Constant for member in found):
            self.terms = terms + 1
        return tuple(found)

    def between(self, left: Expression) -> Call:
        low = self.expression(_LIKE)
        if self.kinds[self.at] != "AND":
            self.unexpected("AND: a BETWEEN low AND high (AND is missing)")
        offset = self.starts[self.at]
        self.at += 1
        bounds = (Call(">=", (left, low)), Call("<=", (left, self.expression(_LIKE))))
        for bound in bounds:
            self.places[id(bound)] = offset
        return Call("and", bounds)

    def pattern(self, op: str, left: Expression) -> Call:
        offset = self.starts[self.at]
        args: tuple[Expression, ...] = (left, self.expression(_LIKE))
        if self.skip("ESCAPE"):
            if self.kinds[self.at] != "string" or len(self.texts[self.at]) != 1:
                self.unexpected("one character after ESCAPE: LIKE '10!%' ESCAPE '!'")
            args = (*args, self.expression(_LIKE))
            self.terms -= 1
        pattern, *escape = (arg.value if isinstance(arg, Constant) else None for arg in args[1:])
        if isinstance(pattern, str):
            try:
                compile_like(pattern, *(escape or [None]), fold_case=False)
            except BadPattern as error:
                self.refuse(f"LIKE pattern: {error}", offset)
        return Call(op, args)

    def comparison(self, left: Expression) -> Expression:
        """A comparison; after `=` and `<>` an ANY or ALL may stand in the place of its right side."""
        kind = self.kinds[self.at].replace("!=", "<>")
        self.at += 1
        after = self.kinds[self.at]
        if after != "ANY" and after != "ALL":
            return Call(kind, (left, self.expression(_COMPARE)))
        if (kind, after) not in (("=", "ANY"), ("<>", "ALL")):
            self.unexpected("a value here: only = ANY(...) and <> ALL(...) are understood")
        self.at += 1
        found = self.quantified(left)
        return found if after == "ANY" else Call("not", (found,))

    def quantified(self, left: Expression) -> Call:
        self.take("(", "( after ANY: x = ANY($1)")
        self.deeper()
        if self.kinds[self.at] == "ARRAY":
            self.at += 1
            found = Call("in", (left, *self.members("[", "]")))
        else:
            found = Call("any", (left, self.expression()))
        self.take(")", ")")
        self.depth -= 1
        return found

    def cast(self, left: Expression) -> Expression:
        self.at += 1
        return self.cast_to(left)

    # --- operands

    def unreadable(self) -> NoReturn:
        kind = self.kinds[self.at]
        if kind == "ANY" or kind == "ALL":
            self.unexpected("a value (ANY stands after = only)")
        before = self.texts[self.at - 1] if self.at else ""
        self.unexpected(f"a value after {before[:20]!r}" if before else "a value")

    def number(self) -> Expression:
        text = self.texts[self.at]
        if len(text) > MAX_DIGITS:
            self.refuse(f"a number of {len(text)} characters; at most {MAX_DIGITS} are read")
        if text.isdigit():
            return self.literal("int", int(text))
        value = decimal_of(text)
        if value is None:
            self.refuse(f"{text[:40]} is out of the range of numbers")
        return self.literal("decimal", value)

    def string(self) -> Expression:
        return self.literal("text", self.texts[self.at])

    def literal(self, kind: str, value: object) -> Constant:
        found = Constant(kind, value)
        self.places[id(found)] = self.starts[self.at]
        self.at += 1
        self.terms += 1
        return found

    def fixed(self) -> Expression:
        self.terms += 1
        self.at += 1
        return {"TRUE": TRUE, "FALSE": FALSE, "NULL": NULL}[self.kinds[self.at - 1]]

    def parameter(self) -> Expression:
        number = int(self.texts[self.at])
        if not 1 <= number <= 1000:
            self.refuse("parameters are $1, $2, ... $1000")
        found = Parameter(number)
        self.parameters = max(self.parameters, number)
        self.places[id(found)] = self.starts[self.at]
        self.at += 1
        self.terms += 1
        return found

    def group(self) -> Expression:
        opening = self.starts[self.at]
        self.at += 1
        self.deeper()
        found = self.expression()
        if self.kinds[self.at] == ",":
            self.refuse("a list in parentheses stands after IN only")
        if self.kinds[self.at] == "end":
            self.refuse("( is not closed", opening)
        self.take(")", "an operator or ) (there is no operator before this)")
        self.depth -= 1
        return found

    def negation(self) -> Expression:
        offset = self.starts[self.at]
        self.at += 1
        self.deeper()
        found = Call("not", (self.condition(_NOT),))
        self.depth -= 1
        self.places[id(found)] = offset
        return found

    def minus(self) -> Expression:
        offset = self.starts[self.at]
        self.at += 1
        self.deeper()
        operand = self.expression(_MINUS)
        self.depth -= 1
        if isinstance(operand, Constant) and operand.kind in ("int", "decimal"):
            # Not as the operator does it: that would round.
            found: Expression = Constant(
                operand.kind,
                operand.value.__neg__() if operand.kind == "int" else operand.value.copy_negate(),
            )
        else:
            found = Call("neg", (operand,))
        self.places[id(found)] = offset
        return found

    def case(self) -> Expression:
        """Both forms of CASE; `CASE a WHEN b` compares a = b."""
        offset = self.starts[self.at]
        self.at += 1
        self.deeper()
        has_subject = self.kinds[self.at] not in ("WHEN", "END")
        subject = self.expression() if has_subject else None
        parts: list[Expression] = []
        if self.kinds[self.at] != "WHEN":
            self.unexpected("WHEN: CASE WHEN condition THEN value END")
        while self.skip("WHEN"):
            when = self.condition() if subject is None else Call("=", (subject, self.expression()))
            self.take("THEN", "THEN: CASE WHEN condition THEN value END (THEN is missing)")
            self.places.setdefault(id(when), offset)
            parts += (when, self.expression())
        parts.append(self.expression() if self.skip("ELSE") else NULL)
        if self.kinds[self.at] == "end":
            self.refuse("CASE is not closed; END is missing", offset)
        self.take("END", "WHEN, ELSE or END")
        self.depth -= 1
        found = Call("case", tuple(parts))
        self.places[id(found)] = offset
        return found

    def cast_call(self) -> Expression:
        offset = self.starts[self.at]
        self.at += 1
        self.take("(", "( after CAST: CAST(x AS numeric)")
        self.deeper()
        operand = self.expression()
        self.take("AS", "AS: CAST(x AS numeric)")
        found = self.cast_to(operand)
        if self.kinds[self.at] == "end":
            self.refuse("( is not closed", offset)
        self.take(")", ") after the type of a CAST")
        self.depth -= 1
        self.places[id(found)] = offset
        return found

    def cast_to(self, operand: Expression) -> Expression:
        """The cast to the type that stands here."""
        start = self.at
        if self.kinds[start] not in ("name", "word"):
            self.unexpected(f"a type: {_CASTS}")
        self.at += 1
        while self.texts[self.at].upper() in _TYPE_WORDS and self.kinds[self.at] in (
            "name",
            "word",
        ):
            self.at += 1
        words = " ".join(self.texts[start : self.at]).lower()
        sizes: list[int] = []
        if self.skip("("):
            while (
                self.kinds[self.at] == "number" and self.texts[self.at].isdigit() and len(sizes) < 2
            ):
                sizes.append(int(self.texts[self.at][:9]))
                self.at += 1
                self.skip(",")
            self.take(")", "a size such as (12,2) and )")
            while self.texts[self.at].upper() in _TYPE_WORDS and self.kinds[self.at] in (
                "name",
                "word",
            ):
                words += f" {self.texts[self.at].lower()}"
                self.at += 1
        return self.converted(operand, words, sizes, self.starts[start])

    def converted(
        self, operand: Expression, words: str, sizes: list[int], offset: int
    ) -> Expression:
        try:
            kind = "Double" if words == "float" and not sizes else parse_type(words).kind
        except UnknownType:
            kind = ""
        if kind == "Decimal":
            if sizes and not (1 <= sizes[0] <= MAX_DIGITS and sum(sizes[1:]) <= sizes[0]):
                self.refuse(
                    "numeric(precision, scale): 1 to 1000 digits, scale at most that", offset
                )
            size = [Constant("int", part) for part in (*sizes, 0)[:2]] if sizes else []
            return Call("numeric", (operand, *size))
        target = _CAST_OF.get(kind)
        if target is None or sizes:
            cure = "; a cast takes no length" if target is not None else ""
            self.refuse(f"no cast to {words}{cure}; cast to {_CASTS}", offset)
        if isinstance(target, int):
            return Call("integer", (operand, Constant("int", target)))
        return Call(target, (operand,))

    def array(self) -> Expression:
        offset = self.starts[self.at]
        self.at += 1
        found = Call("array", self.members("[", "]"))
        self.places[id(found)] = offset
        return found

    def reserved(self) -> Expression:
        """A word that SQL reserves: a call of CURRENT_USER, or the beginning of what is not ours."""
        word = self.texts[self.at].upper()
        if word == "CURRENT_USER":
            found = Call("current_user", ())
            self.places[id(found)] = self.starts[self.at]
            self.at += 1
            self.terms += 1
            if self.skip("("):
                self.take(")", ") after CURRENT_USER(")
            return found
        if word in CURE_BY_FUNCTION:
            self.refuse(f"unexpected {word}; {CURE_BY_FUNCTION[word]}")
        self.unreadable()

    def name(self) -> Expression:
        """A column, a function's call, or a typed literal such as TIMESTAMP '...'."""
        following = self.kinds[self.at + 1]
        if self.kinds[self.at] == "name":
            if following == "(":
                return self.function()
            if following == "string":
                return self.typed_literal()
        found = self.column()
        self.names.append(found)
        self.terms += 1
        return found

    def column(self, *, star: bool = False) -> Name:
        """A column's name with what qualifies it; after a point every word is a name.

        A `*` in its place, where one may stand, is the empty name.
        """
        offset = self.starts[self.at]
        parts = [self.identifier()]
        while self.kinds[self.at] == ".":
            self.at += 1
            if star and self.kinds[self.at] == "*":
                self.at += 1
                return Name("", tuple(parts), offset)
            parts.append(self.identifier(after_point=True))
        if len(parts) > 3:
            self.refuse(
                "a name of four parts; write column, table.column or ns.table.column", offset
            )
        return Name(parts[-1], tuple(parts[:-1]), offset)

    def identifier(self, *, after_point: bool = False) -> str:
        kind, text = self.kinds[self.at], self.texts[self.at]
        is_word = kind == "word" or (kind.isalpha() and kind.isupper())
        if kind != "name" and kind != "quoted" and not (after_point and is_word):
            self.unexpected("a name")
        if text.startswith("_"):
            self.refuse(f"{text[:40]}: names that start with _ belong to the server")
        if kind == "quoted":
            if not text:
                self.refuse("an empty name")
            if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
                self.refuse("a name with a control character")
        if len(text) > 63 and len(text.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            self.refuse(f"a name of more than {MAX_NAME_BYTES} bytes")
        self.at += 1
        return text

    def typed_literal(self) -> Expression:
        word = self.texts[self.at]
        offset = self.starts[self.at]
        try:
            parse_type(word)
        except UnknownType:
            self.refuse(f"a string with the prefix {word[:20]}; write a plain string '...'")
        self.at += 1
        literal = self.string()
        found = self.converted(literal, word.lower(), [], offset)
        self.check_literal(found, word.upper(), offset)
        self.places[id(found)] = offset
        return found

    def check_literal(self, found: Expression, word: str, offset: int) -> None:
        """Refuse a typed literal that is none of its type."""
        if not isinstance(found, Call) or found.op == "json":
            return
        text, *rest = (arg.value for arg in found.args if isinstance(arg, Constant))
        if FUNCTIONS_OF_VALUES[found.op](text, *rest) is None:
            example = {"timestamp": "2024-05-01T12:00:00Z", "date": "2024-05-01"}.get(found.op)
            cure = f"; write ISO 8601: '{example}'" if example else ""
            self.refuse(f"{text[:60]!r} is no {word}{cure}", offset)

    def function(self) -> Expression:
        offset, word = self.starts[self.at], self.texts[self.at].upper()
        if word not in FUNCTIONS:
            cure = CURE_BY_FUNCTION.get(word) or nearest(word, FUNCTIONS)
            self.refuse(f"unknown function {self.texts[self.at][:40]}{f'; {cure}' if cure else ''}")
        self.at += 2
        self.deeper()
        args: list[Expression] = []
        if self.kinds[self.at] != ")":
            args.append(self.expression())
            while self.skip(","):
                args.append(self.expression())
        self.take(")", f"a comma or ) in the arguments of {word}")
        self.depth -= 1
        fewest, most = FUNCTIONS[word]
        if len(args) < fewest or (most is not None and len(args) > most):
            takes = str(fewest) if most == fewest else f"{fewest} to {most or 'any number'}"
            self.refuse(f"{word} with {len(args)} arguments; it takes {takes}", offset)
        if word == "CLAIM" and getattr(args[0], "kind", "") != "text":
            self.refuse("CLAIM takes the claim's name as a string: CLAIM('tenant')", offset)
        found = Call("substr" if word == "SUBSTRING" else word.lower(), tuple(args))
        self.places[id(found)] = offset
        return found


_PREFIXES: dict[str, Callable[[Grammar], Expression]] = {
    "name": Grammar.name,
    "quoted": Grammar.name,
    "word": Grammar.reserved,
    "number": Grammar.number,
    "string": Grammar.string,
    "param": Grammar.parameter,
    "TRUE": Grammar.fixed,
    "FALSE": Grammar.fixed,
    "NULL": Grammar.fixed,
    "(": Grammar.group,
    "NOT": Grammar.negation,
    "-": Grammar.minus,
    "CASE": Grammar.case,
    "CAST": Grammar.cast_call,
    "ARRAY": Grammar.array,
}
_INFIXES: dict[str, Callable[[Grammar, Expression], Expression]] = {
    "IS": Grammar.test,
    "::": Grammar.cast,
    **dict.fromkeys(("NOT", "IN", "BETWEEN", "LIKE", "ILIKE"), Grammar.likeness),
    **dict.fromkeys(("=", "<>", "!=", "<", "<=", ">", ">="), Grammar.comparison),
}
