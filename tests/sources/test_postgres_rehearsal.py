"""PostgreSQL, the daemon and subscribers, all of them real processes, killed on the way."""

import pytest

from loadtest.rehearsal.__main__ import main


@pytest.mark.long
def test_every_view_is_exact_after_kills_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """The rehearsal in small; what it prints is shown when it fails."""
    code = main(["--seconds", "8", "--subscribers", "60", "--fast", "--pgbench-clients", "2"])
    assert code == 0, capsys.readouterr().out
