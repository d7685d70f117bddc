"""The log on NATS JetStream: how a node reaches the stream that gives all nodes one order.

    credentials   what a node signs in with
    connection    one connection to one server, until it is lost; all of nats-py is here
    line          one connection after the other, for ever; who asks, and who listens
    link          over it, the API of the stream; `stream` has what it says as values
    tail          what the stream holds behind a sequence, whole and in order; decided in `reading`
    copying       a node's file, from another node; the one that gives it is `offering`
    faults        what can go wrong

and what a node makes of it:

    message       what the messages say, in a format with a number
    publisher     what is posted here goes into the stream, and is answered when it was applied
    applying      state + message -> state, by rules that read neither clock nor settings
    applier       the thread that does so, many messages in a transaction
    leader        the worker that reads and applies: is it the same stream, and what if not
    fence         ... decided from what is known of both; `node_file` has what is done to files
    standing      where the node stands, and whether it can go on
    trims         what retention would have leave
    nats_log      the log of all this
    opening       a log from its settings
    rebuilding    an operator's decision, where a node does not find back to the stream

nats-py (`kalam-notify[nats]`) is needed by `connection`, and so by `line`, `link`, `tail`,
`copying` and `offering`; the rest can be loaded without.
"""
