"""The log on NATS JetStream: how a node reaches the stream that gives all nodes one order.

    place         where it is: servers and a stream, read from `log.url`
    credentials   what a node signs in with
    connection    one connection to one server, until it is lost; all of nats-py is here
    line          one connection after the other, for ever; who asks, and who listens
    link          over it, the API of the stream; `stream` has what it says as values
    tail          what the stream holds behind a sequence, whole and in order; decided in `reading`
    copying       a node's file, from another node; the one that gives it is `offering`
    faults        what can go wrong

nats-py (`kalam-notify[nats]`) is needed by `connection`, and so by `line`, `link`, `tail`,
`copying` and `offering`; the rest can be loaded without.
"""
