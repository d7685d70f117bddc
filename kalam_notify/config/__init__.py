"""Configuration: settings structs, the way they are loaded, and what can change at a reload."""

from kalam_notify.config.addresses import Address, parse_address
from kalam_notify.config.advice import require_authentication, warnings
from kalam_notify.config.credentials import PLACEHOLDER_SECRET, ROLES
from kalam_notify.config.dev import dev_config
from kalam_notify.config.load import load_config
from kalam_notify.config.nats_settings import NatsSettings, NatsTlsSettings, is_nats
from kalam_notify.config.reload import Differences, reload_differences, reloaded
from kalam_notify.config.settings import (
    ApiKey,
    AuthSettings,
    Config,
    JwtSettings,
    LimitSettings,
    LoggingSettings,
    LogSettings,
    MetricsSettings,
    RetentionSettings,
    ServerSettings,
    TablesSettings,
    TlsSettings,
    WebSocketSettings,
)
from kalam_notify.config.sources import Override

__all__ = [
    "PLACEHOLDER_SECRET",
    "ROLES",
    "Address",
    "ApiKey",
    "AuthSettings",
    "Config",
    "Differences",
    "JwtSettings",
    "LimitSettings",
    "LogSettings",
    "LoggingSettings",
    "MetricsSettings",
    "NatsSettings",
    "NatsTlsSettings",
    "Override",
    "RetentionSettings",
    "ServerSettings",
    "TablesSettings",
    "TlsSettings",
    "WebSocketSettings",
    "dev_config",
    "is_nats",
    "load_config",
    "parse_address",
    "reload_differences",
    "reloaded",
    "require_authentication",
    "warnings",
]
