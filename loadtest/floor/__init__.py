"""The floor: what the kernel alone asks for the same messages to the same number of sockets."""

from loadtest.floor.driver import Floor, Walk

__all__ = ["Floor", "Walk"]
