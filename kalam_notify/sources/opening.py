"""From settings to sources, and whether they can be followed at all. No driver is loaded before."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from kalam_notify.config import Config
from kalam_notify.config.source_settings import SourceSettings
from kalam_notify.errors import OperatorFault
from kalam_notify.log import stored_sources
from kalam_notify.sources.base import Missing, Source, SourceRefused, SourceUnavailable

_EXTRA = Missing(
    "psycopg, which talks to PostgreSQL, is not installed", "pip install 'kalam-notify[postgres]'"
)


class SourcesRefused(OperatorFault):
    """Some of the sources cannot be followed: everything that each of them lacks."""


def open_sources(settings: Mapping[str, SourceSettings], directory: Path) -> list[Source]:
    """A source for each of the settings; nothing is connected yet."""
    if not settings:
        return []
    from kalam_notify.sources.postgres.source import PostgresSource

    return [PostgresSource(name, one, directory) for name, one in settings.items()]


def examine(config: Config, *, insist: bool = False) -> None:
    """Raise SourcesRefused where sources lack something; changes nothing anywhere.

    A database that does not answer is one that is away for now, where it has been followed before,
    unless somebody insists to know.
    """
    if not config.sources:
        return
    try:
        import psycopg  # noqa: F401
    except ImportError:
        faults = [str(SourceRefused(name, [_EXTRA])) for name in config.sources]
        raise SourcesRefused("\n".join(faults)) from None
    known = set() if insist else stored_sources(config.log.url, config.server.data_dir)
    faults = asyncio.run(_examine_all(config, known))
    if faults:
        raise SourcesRefused("\n".join(faults))


async def _examine_all(config: Config, known: set[str]) -> list[str]:
    checks = [_fault(name, one, name in known) for name, one in config.sources.items()]
    return [fault for fault in await asyncio.gather(*checks) if fault is not None]


async def _fault(name: str, settings: SourceSettings, is_known: bool) -> str | None:
    from kalam_notify.sources.postgres.source import PostgresSource

    try:
        missing = await PostgresSource(name, settings).examine()
    except SourceRefused as refused:
        return str(refused)
    except SourceUnavailable as fault:
        if is_known:
            print(f"warning: sources.{name} does not answer: {fault}", file=sys.stderr)
            return None
        cure = "start the database, or name its host, port and database in the URL"
        missing = [Missing(f"the database does not answer: {fault}", cure)]
    return str(SourceRefused(name, missing)) if missing else None
