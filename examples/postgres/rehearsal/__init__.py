"""A dress rehearsal: a private PostgreSQL, the daemon, the feeder and many subscribers.

`cluster` is the database, `processes` are the real processes that get killed, `questions` are the
queries that subscribers hold, `subscribers` is what a client process runs, `views` is what a
subscriber makes of the messages, and `verdict` compares that with PostgreSQL.
"""
