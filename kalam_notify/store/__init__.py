"""The state that the log adds up to: entries, current rows, idempotency keys, retention."""
