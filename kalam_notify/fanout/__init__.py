"""From the log to the sinks: the worker loop, payloads, chunks, and the feeding of laggards."""
