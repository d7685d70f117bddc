"""Which rows make a page: filter, count, bytes, and whether one more follows."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from kalam_notify.eventlog.base import Matches, Page, PageRequest
from kalam_notify.model import Row

Candidate = tuple[int, Row]

# A thread that decodes and filters holds the interpreter lock against the event loop, which would
# wait a whole switch interval (5 ms) after each of its own system calls. So it works in slices far
# shorter than that and steps aside for a moment in between: under a loop that is never idle, a scan
# of 100,000 rows takes a quarter of the time that it takes without, and delays the loop less.
_SLICE_ROWS = 64
_ASIDE_SECONDS = 0.0001


def step_aside() -> None:
    """Let another thread have the interpreter."""
    time.sleep(_ASIDE_SECONDS)


def sift(
    candidates: Iterable[Candidate],
    matches: Matches | None,
    aside: Callable[[], None] = step_aside,
) -> Iterator[Candidate]:
    """The candidates that match, in the order given."""
    if matches is None:
        yield from candidates
        return
    source = iter(candidates)
    while piece := list(islice(source, _SLICE_ROWS)):
        kept = [found for found in piece if matches(found[1].values)]
        aside()
        yield from kept


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
