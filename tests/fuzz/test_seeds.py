"""Every seed, and with it every input that was ever found, goes through its target."""

from functools import lru_cache
from pathlib import Path

import pytest

from fuzz import targets
from fuzz.run import MAX_LEN

HERE = Path(__file__).parent
SEEDS = [
    pytest.param(name, file, id=f"{name}/{file.name}")
    for name in targets.TARGETS
    for file in sorted((HERE / "seeds" / name).iterdir())
]

target = lru_cache(targets.target)


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_nothing_but_documented_errors_comes_out(name: str, seed: Path) -> None:
    target(name)(seed.read_bytes())


def test_every_target_has_seeds_words_and_a_bound() -> None:
    directories = {path.name for path in (HERE / "seeds").iterdir()}
    words = {path.stem for path in (HERE / "words").iterdir()}
    assert directories == words == set(MAX_LEN) == set(targets.TARGETS)
