"""The configuration of `serve --dev`: open, forgetful, and good for the machine it runs on."""

import secrets
from pathlib import Path

from msgspec.structs import replace

from kalam_notify.config.settings import AuthSettings, Config, JwtSettings, OneOrMore


def dev_config(
    config: Config,
    *,
    data_dir: Path | None = None,
    secret: OneOrMore = None,
    keeps_nothing: bool = False,
) -> Config:
    """`config` with what `--dev` changes.

    A signing key of its own (`secret`, None: a fresh one), anonymous subscribers, tables created
    on first use, open metrics, the tables of sources public, and `data_dir` where it is given.
    `keeps_nothing`: the data directory goes with the server, and so do the slots of its sources.
    """
    key = secret or secrets.token_hex(32)
    server = config.server if data_dir is None else replace(config.server, data_dir=data_dir)
    return replace(
        config,
        server=server,
        sources={
            name: replace(
                source, access="public", is_temporary=keeps_nothing or source.is_temporary
            )
            for name, source in config.sources.items()
        },
        auth=AuthSettings(
            jwt=JwtSettings(secret=key), anonymous=True, api_keys=config.auth.api_keys
        ),
        tables=replace(config.tables, auto_create=True),
        metrics=replace(config.metrics, open=True),
    )
