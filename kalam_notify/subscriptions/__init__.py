"""Who wants what: subscriptions, their states, the plans they share and the indexes they are in.

Plain synchronous code without I/O: `ConnectionsManager` is the one way in.
"""
