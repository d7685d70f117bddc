"""The configuration of `serve --dev`: open, forgetful, and good for the machine it runs on."""

import secrets
from pathlib import Path

from msgspec.structs import replace

from kalam_notify.config.settings import AuthSettings, Config, JwtSettings, OneOrMore


def dev_config(config: Config, *, data_dir: Path | None = None, secret: OneOrMore = None) -> Config:
    """`config` with what `--dev` changes.

    A signing key of its own (`secret`, None: a fresh one), anonymous subscribers, tables created
    on first use, open metrics, and `data_dir` where it is given.
    """
    key = secret or secrets.token_hex(32)
    server = config.server if data_dir is None else replace(config.server, data_dir=data_dir)
    return replace(
        config,
        server=server,
        auth=AuthSettings(
            jwt=JwtSettings(secret=key), anonymous=True, api_keys=config.auth.api_keys
        ),
        tables=replace(config.tables, auto_create=True),
        metrics=replace(config.metrics, open=True),
    )
