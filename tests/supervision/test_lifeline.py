"""A worker whose loop has stopped turning ends with its supervisor all the same."""

import socket
import subprocess
import sys

STUCK = """
import sys, threading
from kalam_notify.supervision.lifeline import end_without
end_without(int(sys.argv[1]), 0.0)
print("stuck", flush=True)
threading.Event().wait()
"""


def test_a_stuck_process_ends_when_the_other_end_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(theirs.fileno())],
            stdout=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        assert process.poll() is None
        ours.close()
        assert process.wait(60) == 1
