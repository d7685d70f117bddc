"""Which rows make a page: filter, count, bytes, and whether one more follows."""

from collections.abc import Iterable, Iterator, Sequence

from kalam_notify.store.base import Matches, Page, PageRequest
from kalam_notify.store.filtering import Candidate, RowFilter


def keep_matching(
    chunks: Iterable[Sequence[Candidate]], matches: Matches | None, row_filter: RowFilter
) -> Iterator[Candidate]:
    """The candidates that match, in the order given, chunk by chunk as they are wanted."""
    for chunk in chunks:
        yield from chunk if matches is None else row_filter(chunk, matches)


def fill_page(request: PageRequest, as_of: int, matching: Iterable[Candidate]) -> Page:
    """The page that these rows, already filtered and in order, make."""
    rows: list[Candidate] = []
    size = 0
    for candidate in matching:
        if len(rows) >= request.limit or (rows and size >= request.max_bytes):
            return Page(as_of, rows, has_more=True)
        rows.append(candidate)
        size += len(candidate[1].json)
    return Page(as_of, rows, has_more=False)
