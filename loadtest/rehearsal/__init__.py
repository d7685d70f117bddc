"""A dress rehearsal: a private PostgreSQL, a daemon that follows it, and many subscribers.

`processes` are the real processes that get killed, `questions` are the queries that subscribers
hold, `subscribers` is what a client process runs, `views` is what a subscriber makes of the
messages, and `verdict` compares that with PostgreSQL.
"""
