"""Delivery to those at the head: the fan-out of every change to the live subscriptions."""
