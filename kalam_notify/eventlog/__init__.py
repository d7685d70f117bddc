"""The log that changes are appended to and read back from."""
