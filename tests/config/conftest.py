"""Configurations for the tests of config/: YAML text becomes a file, faults become text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from kalam_notify.config import Config, Override, load_config
from kalam_notify.errors import ConfigurationFault

Load = Callable[..., Config]
Faults = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(yaml, environ, overrides) -> Config`."""

    def load_text(
        text: str = "", environ: Mapping[str, str] | None = None, overrides: Sequence[Override] = ()
    ) -> Config:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, environ, overrides)

    return load_text


@pytest.fixture
def faults(load: Load, tmp_path: Path) -> Faults:
    """`faults(yaml, environ, overrides)`: the lines an operator is told, the file as `FILE`."""

    def lines(*sources: object) -> list[str]:
        with pytest.raises(ConfigurationFault) as caught:
            load(*sources)
        found = [str(fault) for fault in caught.value.faults]
        assert str(caught.value).splitlines() == found
        return [line.replace(str(tmp_path / "config.yaml"), "FILE") for line in found]

    return lines
