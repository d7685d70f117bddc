"""Which of many filters are TRUE of a row, without asking them all, and who so sees a change.

Filters are filed by one of their terms (see `access`): by column and value in a hash table, by
interval in an ordered structure, by prefix in a hash table for each length of prefix; the few that
offer no term are asked one by one. A look-up collects what the row's own values lead to, asks the
residual of each where there is one, and gives the items of those that are TRUE. So its cost follows
the number of columns indexed and of filters met, not the number of filters.

Every distinct filter is one entry, however many items share it. Adding and removing cost one
look-up for each of the filter's terms (logarithmic for ranges).

A subscriber holds the rows its filter is TRUE for. An update can carry a row into that set or out
of it, so both images of the row are judged:

    old matches | new matches | seen as
    no          | no          | nothing
    no          | yes         | insert (of a change that is an insert), else insert + "enter"
    yes         | no          | delete (of a change that is a delete), else delete + "leave"
    yes         | yes         | update

Where the old image is not known (an update of a table without a primary key, posted without
`old_data`) the new row alone decides.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec

from kalam_notify.filters.access import Access, access_paths, explain
from kalam_notify.filters.lookups import Begins, Equals, HashIndex, PrefixIndex, RangeIndex, Term
from kalam_notify.filters.query import Filter, Test, compile_predicate
from kalam_notify.model import Change
from kalam_notify.sql.describe import describe
from kalam_notify.sql.tree import FALSE, TRUE, Expression

T = TypeVar("T", bound=Hashable)


class Delta(Enum):
    """What a subscriber is told; the value is (change_type, transition)."""

    INSERT = ("insert", None)
    UPDATE = ("update", None)
    DELETE = ("delete", None)
    ENTER = ("insert", "enter")
    LEAVE = ("delete", "leave")

    def __init__(self, change_type: str, transition: str | None) -> None:
        # A small integer of its own: cheaper than a member as (part of) a key.
        self.number = len(type(self).__members__)
        self.change_type = change_type
        self.transition = transition


def delta(change: Change, old_matches: bool, new_matches: bool) -> Delta | None:
    """How the change is seen, given the filter's answers; None: not at all.

    `old_matches` is False where there is no old image, `new_matches` where there is no new one.
    """
    if change.kind == "insert":
        return Delta.INSERT if new_matches else None
    if change.kind == "delete":
        return Delta.DELETE if old_matches else None
    if new_matches:
        return Delta.UPDATE if old_matches or change.old is None else Delta.ENTER
    return Delta.LEAVE if old_matches else None


def deltas(
    change: Change, before: Sequence[T] | None, after: Sequence[T] | None
) -> Sequence[tuple[T, Delta]]:
    """Who sees a change, each once, and as what.

    `before` is who matches the old image, `after` who matches the new one; None: there is none.
    """
    if before is None or after is None:
        return _one_image(change, before, after)
    routed = []
    left = dict.fromkeys(before)
    for item in after:
        was_in = item in left
        if was_in:
            del left[item]
        seen = delta(change, was_in, True)
        if seen is not None:
            routed.append((item, seen))
    for item in left:
        seen = delta(change, True, False)
        if seen is not None:
            routed.append((item, seen))
    return routed


def _one_image(
    change: Change, before: Sequence[T] | None, after: Sequence[T] | None
) -> Sequence[tuple[T, Delta]]:
    if after is not None:
        seen = delta(change, False, True)
        assert seen is not None
        return [(item, seen) for item in after]
    if before is not None and change.kind == "delete":
        return [(item, Delta.DELETE) for item in before]
    return ()


class Explanation(msgspec.Struct, frozen=True):
    """How a filter is found: index used, residual asked (None: nothing), items that share it."""

    index: str
    residual: str | None
    shared: int


class Entry(Generic[T]):
    """One distinct filter and its items."""

    __slots__ = ("choice", "data", "items", "many", "test")

    def __init__(self, item: T) -> None:
        self.items: tuple[T, ...] | dict[T, None] = (item,)
        # The compiled residual and its data; None: what was met is TRUE.
        self.test: Test | None = None
        self.data: tuple[Any, ...] = ()
        # Which of the filter's access paths it is filed by.
        self.choice = 0
        # Whether one row can lead here by more than one term.
        self.many = False

    def add(self, item: T) -> None:
        if isinstance(self.items, dict):
            self.items[item] = None
        elif item not in self.items:
            self.items = {**dict.fromkeys(self.items), item: None}

    def discard(self, item: T) -> None:
        if isinstance(self.items, dict):
            self.items.pop(item, None)
        elif item in self.items:
            self.items = ()


class FilterIndex(Generic[T]):
    """Items, each under a filter, and the look-up of those whose filter is TRUE of a row."""

    __slots__ = (
        "_always",
        "_entries",
        "_prefixes",
        "_ranges",
        "_scanned",
        "_values",
        "evaluations",
        "on_broken",
    )

    def __init__(self, on_broken: Callable[[T, Exception], None] | None = None) -> None:
        # Told of every item of a filter whose evaluation raised; such a filter does not match.
        self.on_broken = on_broken
        # Residuals and scanned filters asked so far.
        self.evaluations = 0
        self._entries: dict[bytes, Entry[T]] = {}
        self._always: Entry[T] | None = None
        # Made when the first filter needs them: most tables have few kinds of filters.
        self._values: HashIndex[Entry[T]] | None = None
        self._ranges: RangeIndex[Entry[T]] | None = None
        self._prefixes: PrefixIndex[Entry[T]] | None = None
        self._scanned: dict[Entry[T], None] | None = None

    def __len__(self) -> int:
        """The number of distinct filters."""
        return len(self._entries)

    def add(self, filter: Filter, item: T) -> None:
        """File an item under a filter. Filing it twice is filing it once."""
        entry = self._entries.get(filter.key)
        if entry is not None:
            return entry.add(item)
        entry = self._entries[filter.key] = Entry(item)
        return self._file(filter.predicate, entry)

    def discard(self, filter: Filter, item: T) -> None:
        """Forget an item under a filter; an item that is not there is no error."""
        entry = self._entries.get(filter.key)
        if entry is None:
            return
        entry.discard(item)
        if not entry.items:
            del self._entries[filter.key]
            self._take(filter.predicate, entry)

    def matching(self, values: dict[str, Any]) -> list[T]:
        """The items whose filter is TRUE of a row's values, each once, in no special order."""
        return self._true_of(values, self._hits(values))

    def matching_few(self, values: dict[str, Any], most: int) -> list[T] | None:
        """`matching`, unless the row leads to more than so many filters; None: then nobody asks."""
        hits = self._hits(values)
        return None if len(hits) > most else self._true_of(values, hits)

    def _true_of(self, values: dict[str, Any], hits: "list[Entry[T]]") -> list[T]:
        found: list[T] = [] if self._always is None else [*self._always.items]
        seen: set[Entry[T]] | None = None
        for entry in hits:
            if entry.many:
                seen = set() if seen is None else seen
                if entry in seen:
                    continue
                seen.add(entry)
            test = entry.test
            if test is not None:
                self.evaluations += 1
                try:
                    if not test(values, entry.data):
                        continue
                except Exception as error:
                    self._report(entry, error)
                    continue
            found.extend(entry.items)
        return found

    def route(self, change: Change) -> Sequence[tuple[T, Delta]]:
        """The items that see a change of the table, each once, and as what."""
        before = None if change.old is None else self.matching(change.old.values)
        after = None if change.row is None else self.matching(change.row.values)
        return deltas(change, before, after)

    @property
    def scanned(self) -> "list[Entry[T]]":
        """Entries that have to be asked of every row."""
        return [] if self._scanned is None else [*self._scanned]

    def sort_out(
        self, values: dict[str, Any], *, with_scanned: bool = True
    ) -> "tuple[list[T], list[Entry[T]]]":
        """`matching` for whoever asks the filters himself: what is TRUE, and what is to be asked.

        Ask each entry by `ask`; its `items` belong to the result where that is True. The `scanned`
        ones may be left out, to be asked apart.
        """
        found: list[T] = [] if self._always is None else [*self._always.items]
        to_ask: list[Entry[T]] = []
        hits = self._hits(values, with_scanned)
        for entry in dict.fromkeys(hits) if any(entry.many for entry in hits) else hits:
            if entry.test is None:
                found.extend(entry.items)
            else:
                to_ask.append(entry)
        return found, to_ask

    def ask(self, entry: "Entry[T]", values: dict[str, Any]) -> bool:
        """Whether what `sort_out` left to be asked is TRUE; an evaluation that raises is not."""
        assert entry.test is not None
        self.evaluations += 1
        try:
            return entry.test(values, entry.data)
        except Exception as error:
            self._report(entry, error)
            return False

    def is_asked(self, filter: Filter) -> bool:
        """Whether a filter has to be asked of rows: a look-up alone cannot tell."""
        entry = self._entries.get(filter.key)
        if entry is not None:
            return entry.test is not None
        if filter.predicate in (TRUE, FALSE):
            return False
        return all(path.residual is not None for path in access_paths(filter.predicate))

    def _hits(self, values: dict[str, Any], with_scanned: bool = True) -> list[Entry[T]]:
        """The entries that the row leads to, and those that are always asked."""
        hits: list[Entry[T]] = []
        if self._values is not None:
            self._values.collect(values, hits)
        if self._ranges is not None:
            self._ranges.collect(values, hits)
        if self._prefixes is not None:
            self._prefixes.collect(values, hits)
        if self._scanned is not None and with_scanned:
            hits.extend(self._scanned)
        return hits

    def _report(self, entry: Entry[T], error: Exception) -> None:
        """Tell whoever owns a broken filter; its fault must not reach the others."""
        if self.on_broken is not None:
            for item in [*entry.items]:
                self.on_broken(item, error)

    def explain(self, filter: Filter) -> Explanation:
        """How this filter is found here, whether or not it is filed."""
        entry = self._entries.get(filter.key)
        shared = 0 if entry is None else len(entry.items)
        if filter.predicate in (TRUE, FALSE):
            return Explanation("every row" if filter.matches_all else "no row", None, shared)
        paths = access_paths(filter.predicate)
        path = paths[self._most_selective(paths) if entry is None else entry.choice]
        residual = None if path.residual is None else describe(path.residual)
        return Explanation("scan" if path.terms is None else explain(path.terms), residual, shared)

    def _file(self, predicate: Expression, entry: Entry[T]) -> None:
        if predicate == TRUE:
            self._always = entry
            return
        if predicate == FALSE:
            return
        paths = access_paths(predicate)
        entry.choice = self._most_selective(paths)
        path = paths[entry.choice]
        if path.residual is not None:
            entry.test, entry.data = compile_predicate(path.residual)
        if path.terms is None:
            self._scanned = {} if self._scanned is None else self._scanned
            self._scanned[entry] = None
            return
        entry.many = _can_meet_twice(path.terms)
        for term in path.terms:
            self._file_term(term, entry)

    def _most_selective(self, paths: list[Access]) -> int:
        """The place in `paths` of the one that leads to the fewest filters now."""
        if len(paths) == 1 or self._values is None:
            return 0
        count = self._values.count
        counts = [
            sum(count(term) for term in path.terms or () if isinstance(term, Equals))
            for path in paths
        ]
        return counts.index(min(counts))

    def _file_term(self, term: Term, entry: Entry[T]) -> None:
        if isinstance(term, Equals):
            self._values = HashIndex() if self._values is None else self._values
            self._values.file(term, entry)
        elif isinstance(term, Begins):
            self._prefixes = PrefixIndex() if self._prefixes is None else self._prefixes
            self._prefixes.file(term, entry)
        else:
            self._ranges = RangeIndex() if self._ranges is None else self._ranges
            self._ranges.file(term, entry)

    def _take(self, predicate: Expression, entry: Entry[T]) -> None:
        if entry is self._always:
            self._always = None
        if predicate in (TRUE, FALSE):
            return
        path = access_paths(predicate)[entry.choice]
        if path.terms is None and self._scanned is not None:
            self._scanned.pop(entry, None)
        for term in path.terms or ():
            self._take_term(term, entry)

    def _take_term(self, term: Term, entry: Entry[T]) -> None:
        if isinstance(term, Equals) and self._values is not None:
            self._values.take(term, entry)
        elif isinstance(term, Begins) and self._prefixes is not None:
            self._prefixes.take(term, entry)
        elif not isinstance(term, (Equals, Begins)) and self._ranges is not None:
            self._ranges.take(term, entry)


def _can_meet_twice(terms: Iterable[Term]) -> bool:
    """Whether one row can hold two of the terms: not if all ask for values of one column."""
    terms = tuple(terms)
    if len(terms) < 2:
        return False
    return not all(isinstance(term, Equals) and term.column == terms[0].column for term in terms)
