"""How a subscription begins: what is acknowledged, and with which position.

    asked with                      known                       begun
    ------------------------------  --------------------------  ------------------------------------
    null                            where the log ends          ack, empty batch; live from there
    from S                          the log reaches back to S   ack, empty batch; the log after S
    from S, on_gap error            it does not                 RESUME_EXPIRED, and it is over
    from S, on_gap snapshot         it does not                 a snapshot, `resumed: false`
    anything else                                               a snapshot

What needs no rows is done at once, in the turn of the subscribe. Where other processes write the
same log, its end has to be asked for, and so has a position beyond what is known here; a resume
within what is known is certain.
"""

from enum import Enum

from kalam_notify.delivery.frames import FrameSet
from kalam_notify.log.base import EventLog, reaches
from kalam_notify.protocol import messages
from kalam_notify.protocol.frames import text_frame
from kalam_notify.protocol.heads import batch_head
from kalam_notify.subscriptions.handle import SubscriptionHandle

EXPIRED = "the log does not reach back to that position; subscribe again without `from`"


class Beginning(Enum):
    """What is to be done for a new subscription."""

    LIVE = "acknowledge it as live only"
    RESUME = "acknowledge its position"
    SNAPSHOT = "send it a snapshot"
    EXPIRED = "end it"
    ASK = "ask the log where it ends, first"


def beginning_of(handle: SubscriptionHandle, log: EventLog, head: int | None) -> Beginning:
    """How a handle begins; `head` is where the log ends, None: as far as is known here."""
    options = handle.options
    is_certain = head is not None or not log.is_shared
    if options is None:
        return Beginning.LIVE if is_certain else Beginning.ASK
    if options.from_seq is None:
        return Beginning.SNAPSHOT
    table = handle.plan.table.id
    if reaches(log, options.from_seq, log.last_seq if head is None else head, table):
        return Beginning.RESUME
    if options.from_seq > log.horizon(table) and not is_certain:
        return Beginning.ASK
    return Beginning.SNAPSHOT if options.on_gap == "snapshot" else Beginning.EXPIRED


def acknowledge(handle: SubscriptionHandle, position: int) -> None:
    """Acknowledge what needs no rows: the ack and an empty, ready batch, both at a position."""
    control = messages.batch_control(0, False, position)
    resumed = None if handle.options is None else True
    body = messages.batch_body((), control)
    batch = FrameSet([body], 0).for_head(batch_head(handle.id, handle.sink.deflates))
    handle.sink.send_frames(acknowledgement(handle, control, resumed) + batch)
    handle.loaded(position)


def acknowledgement(
    handle: SubscriptionHandle, control: dict[str, object], resumed: bool | None
) -> bytes:
    """The ack, framed."""
    schema = handle.plan.projection.schema(handle.plan.table)
    return text_frame(
        messages.subscription_ack(handle.id, control, schema, resumed, handle.notices)
    )
