"""The subscribers: a C program (client.c), or a slower one in Python where there is no compiler."""

from loadtest.client.driver import Client, ClientPlan, Delays, Report

__all__ = ["Client", "ClientPlan", "Delays", "Report"]
