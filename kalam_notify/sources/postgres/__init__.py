"""PostgreSQL as a source: its catalogue, its snapshots and its write-ahead log."""
