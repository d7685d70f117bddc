"""Is the stream still the one that a node's file was made of? Decided from what is known of both.

Sequences count messages, so two streams of one name may well have a message of the same sequence.
What is compared is when the stream was created, how far it reaches, and the last message of ours
that was applied: who published it, and when the stream took it. No I/O.
"""

from kalam_notify.errors import LogFault
from kalam_notify.log.nats.applying import AppliedMessage, NodeState
from kalam_notify.log.nats.link import StreamInfo, StreamMessage
from kalam_notify.log.nats.message import MID_HEADER

CURE = (
    "this node goes no further until another node offers its file, or an operator decides whose"
    " rows stand, by `kalam-notify rebuild`"
)


class Parted(LogFault):
    """The file of a node and the stream do not go together, and why.

    `owes_epoch`: seqs that this node has told may be given again. `can_replay`: the stream reaches
    back to its beginning, and is the one that this node has applied.
    """

    def __init__(self, reason: str, *, owes_epoch: bool = False, can_replay: bool = False) -> None:
        super().__init__(reason)
        self.owes_epoch = owes_epoch
        self.can_replay = can_replay


class LostEnd(Parted):
    """The stream is said to end before what was applied: true, unless an old leader said so."""


def compare(state: NodeState, info: StreamInfo) -> None:
    """Raise Parted unless the stream, as its leader tells it, may go on where the file ends."""
    name = state.name
    if not state.created:
        if info.first_seq > 1:
            raise Parted(
                f"the stream {name} begins at message {info.first_seq}, and this node has nothing"
                " of what came before"
            )
        return
    if info.created != state.created:
        raise Parted(
            f"the stream {name} was made anew: it is not the one that this node has applied"
        )
    if info.last_seq < state.applied:
        raise LostEnd(
            f"the stream {name} ends at message {info.last_seq}, having lost its end: this node has"
            f" applied it up to message {state.applied}",
            owes_epoch=True,
            can_replay=info.first_seq <= 1,
        )
    if info.first_seq > state.applied + 1:
        raise Parted(
            f"the stream {name} begins at message {info.first_seq}, and this node has been away"
            f" since message {state.applied}"
        )


def compare_message(
    known: AppliedMessage, theirs: StreamMessage | None, state: NodeState, info: StreamInfo
) -> None:
    """Raise Parted unless a message that was applied is the one that the stream has."""
    mid = None if theirs is None else (theirs.headers or {}).get(MID_HEADER)
    if theirs is None or mid != known.mid or theirs.at != known.at:
        raise Parted(
            f"message {known.seq} of the stream {state.name} is not the one that was applied here",
            owes_epoch=True,
            can_replay=info.first_seq <= 1,
        )
