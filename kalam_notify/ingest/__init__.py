"""POST /v1/changes: from a producer's bytes to a durable batch."""
