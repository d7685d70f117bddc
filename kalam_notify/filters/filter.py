"""The WHERE clause of a query, ready to be asked."""

from hashlib import blake2b
from typing import Any

from kalam_notify.filters.compiler import Test, compile_predicate
from kalam_notify.filters.cost import cost_of
from kalam_notify.filters.hints import hints_of
from kalam_notify.model.hints import Hints
from kalam_notify.sql.describe import describe
from kalam_notify.sql.normal import order
from kalam_notify.sql.tree import FALSE, TRUE, Expression


class Filter:
    """A predicate in normal form, with its compiled form made when it is first asked.

    Two filters that mean the same (see `normal`) are equal.
    """

    __slots__ = ("_data", "_test", "key", "predicate")

    def __init__(self, predicate: Expression) -> None:
        self.predicate = predicate
        # A digest of the normal form: as good as the form itself, and quick to compare.
        text = order(predicate).encode("utf-8", "surrogatepass")
        self.key = blake2b(text, digest_size=20).digest()
        self._test: Test | None = None
        self._data: tuple[Any, ...] = ()

    @property
    def matches_all(self) -> bool:
        """No WHERE, or one that is always TRUE."""
        return self.predicate == TRUE

    @property
    def matches_nothing(self) -> bool:
        """Never TRUE, whatever the row (a policy over a claim that the subscriber lacks)."""
        return self.predicate == FALSE

    @property
    def hints(self) -> Hints:
        """Clauses that hold of every row that matches."""
        return hints_of(self.predicate)

    @property
    def cost(self) -> int:
        """How dear one evaluation is at most, in comparisons; a LIKE counts for several."""
        return cost_of(self.predicate)

    def matches(self, values: dict[str, Any]) -> bool:
        """Whether the filter is TRUE of a row's values. May be called from any thread."""
        test = self._test
        if test is None:
            # Data first: another thread may see the test as soon as it is there.
            test, self._data = compile_predicate(self.predicate)
            self._test = test
        return test(values, self._data)

    @property
    def sql(self) -> str:
        """The condition as SQL, in its normal form, for people."""
        return describe(self.predicate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Filter({self.sql})"
