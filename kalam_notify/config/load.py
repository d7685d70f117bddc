"""Flags over environment over YAML over defaults: the one way to a `Config`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kalam_notify.config.advice import lacking
from kalam_notify.config.checks import check
from kalam_notify.config.decode import Decoder
from kalam_notify.config.settings import Config
from kalam_notify.config.sources import Override, lay_environment, lay_overrides, read_file
from kalam_notify.config.tree import Tree
from kalam_notify.errors import ConfigurationFault, Fault


def load_config(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[Override] = (),
    *,
    serving: bool = False,
    renewing: bool = False,
) -> Config:
    """Read, lay over one another and check all sources.

    `environ` is what `os.environ` holds (None: nothing); only `KALAM_NOTIFY_…` is looked at.
    `serving`: what `serve` insists on is missing where it is not there. `renewing`: whether the
    certificate holds is for whoever renews it, and keeps nothing else from being reloaded. Raises
    ConfigurationFault with every fault there is.
    """
    faults: list[Fault] = []
    tree: Tree = {} if file is None else read_file(file, faults)
    lay_environment(tree, environ or {}, faults)
    lay_overrides(tree, overrides, faults)
    decoder = Decoder(faults)
    config = decoder.config(tree)
    check(config, decoder.sources, faults, renewing=renewing)
    if serving:
        _insist(config, str(file or "serve"), decoder.sources, faults)
    if faults:
        raise ConfigurationFault(faults)
    return config


def _insist(config: Config, blamed: str, sources: Mapping[str, str], faults: list[Fault]) -> None:
    reported = [fault.key for fault in faults]
    for key, value, cure in lacking(config):
        if not any(f"{other}.".startswith(f"{key}.") for other in reported):
            faults.append(Fault(sources.get(key, blamed), key, value, cure))
