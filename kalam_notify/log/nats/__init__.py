"""The log on NATS JetStream: how a node reaches the stream that gives all nodes one order.

    Link         one connection at a time, to any of the servers, for ever; the API of the stream
    Tail         what the stream holds behind a sequence, complete and in order, for the applier
    copying      a node's file, whole, from one node to another over the same connection

Only `connection` knows nats-py (`kalam-notify[nats]`), so that the rest can be loaded without.
"""
