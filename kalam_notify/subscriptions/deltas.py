"""How one change looks through one filter: the rule that keeps a filtered view exact.

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

from enum import Enum

from kalam_notify.model import Change


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
