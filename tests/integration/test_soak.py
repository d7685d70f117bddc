"""Clients as people are, over real sockets, for some seconds: every row and every close is checked.

loadtest/soak does it (the theory is in its `__init__`). KALAM_SOAK_SECONDS makes it longer, and
KALAM_SOAK_SEED is the seed that a failed run has printed.
"""

import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.server import running_server

from loadtest.soak.crowd import Crowd, first_of
from loadtest.soak.history import declared
from loadtest.soak.life import Wrong

SECONDS = float(os.environ.get("KALAM_SOAK_SECONDS", "12"))
CHECK_SECONDS = 4.0  # between two checkpoints
SLOW_READER_TIMEOUT = 2.0


async def soak(crowd: Crowd, seconds: float) -> Counter[str]:
    """What happened, by number; fails with what was wrong first."""
    try:
        async with crowd.living():
            for _ in range(max(1, round(seconds / CHECK_SECONDS))):
                await crowd.pass_time(CHECK_SECONDS)
                await crowd.checkpoint()
    except* Wrong as group:
        raise AssertionError(str(first_of(group))) from group
    return crowd.counts


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 3])
async def test_everybody_is_told_everything_and_nobody_who_reads_is_closed(
    workers: int, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KALAM_SOAK_SEED", str(workers)))
    print(f"KALAM_SOAK_SEED={seed}")
    settings = {
        "server": {"workers": workers},
        "websocket": {
            "slow_reader_timeout": f"{SLOW_READER_TIMEOUT}s",
            "send_buffer_bytes": "64KiB",
            "batch_grace": "200ms",
        },
        "tables": {"declared": declared()},
    }
    with running_server(tmp_path, settings) as server:
        crowd = Crowd([server.url], server.token, seed, slow_reader_timeout=SLOW_READER_TIMEOUT)
        counts = await soak(crowd, SECONDS)
        print(dict(counts))
        assert "Traceback" not in server.errors, server.errors
    # All of it did happen.
    for what in ("stalls", "resumes", "subscribed anew", "unsubscribed", "subscriptions checked"):
        assert counts[what] > 0, counts
