"""Clients as people are, for a while, and every row and every close checked.

Connections hold one to eight subscriptions on one to four tables, read with small buffers or large
ones, stall and go on, subscribe anew under a used id, unsubscribe, hang up and resume, and refresh
their tokens, while others post. Now and then the posting pauses (a checkpoint): everybody must then
hold exactly what the posted changes say, told in order, with nothing missing and nothing twice.

history.py   what was posted, and what a subscription must be told of it
life.py      what one subscription was told
actor.py     one connection that does all that
crowd.py     the actors, the posters and the checkpoints
faults.py    what a load test does to the server meanwhile: killed workers, cut connections
question.py  `python -m loadtest soak`: curves of memory, descriptors, threads and lag

The test suite runs the same crowd for some seconds (tests/integration/test_soak.py).
"""
