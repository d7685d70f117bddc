"""Databases whose tables are told here as if somebody posted their changes."""
