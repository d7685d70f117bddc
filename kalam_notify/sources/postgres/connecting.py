"""Connections to PostgreSQL, and what their faults mean here."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg

from kalam_notify.sources.base import SourceUnavailable
from kalam_notify.sources.postgres.values import SESSION

CONNECT_SECONDS: Final = 3
NO_SETTINGS: Final[Mapping[str, str]] = {}
Connection = psycopg.AsyncConnection[Any]

# A peer that is gone without a word is noticed within half a minute.
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def why(fault: BaseException) -> str:
    """A fault of the database on one line."""
    if isinstance(fault, TimeoutError):
        return f"no answer within {CONNECT_SECONDS} s"
    return " ".join(str(fault).split()) or type(fault).__name__


@asynccontextmanager
async def raised_as_unavailable() -> AsyncIterator[None]:
    """What the driver raises, as SourceUnavailable."""
    try:
        yield
    except (psycopg.Error, OSError, TimeoutError) as fault:
        raise SourceUnavailable(why(fault)) from fault


async def connect(
    url: str, name: str, *, replication: bool = False, settings: Mapping[str, str] = NO_SETTINGS
) -> Connection:
    """Open a connection whose values are printed as `values` reads them; raises psycopg.Error.

    One for replication takes plain statements, without parameters, and the replication commands.
    `settings` are PostgreSQL's, for this connection.
    """
    more: dict[str, Any] = {"replication": "database"} if replication else {}
    # Not as a parameter of the start-up packet but of `options`: a pooler passes those on, too.
    options = " ".join(
        f"-c {key}={value.replace(' ', chr(92) + ' ')}"
        for key, value in {**SESSION, **settings}.items()
    )
    return await psycopg.AsyncConnection.connect(
        url,
        autocommit=True,
        # The walsender knows no other protocol than the simple one.
        cursor_factory=psycopg.AsyncClientCursor if replication else psycopg.AsyncCursor,
        connect_timeout=CONNECT_SECONDS,
        application_name=f"kalam-notify {name}",
        options=options,
        **_KEEPALIVE,
        **more,
    )
