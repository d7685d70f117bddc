"""Servers with several workers and settings of a test's own."""

from integration.conftest import start_server, workers

__all__ = ["start_server", "workers"]
