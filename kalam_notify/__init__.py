"""kalam_notify: exact live queries over WebSocket, from row changes posted over HTTP.

The log is the bus, and a subscription is a cursor on it: producers append changes to an ordered,
durable log; whoever stands at its head is offered each change, whoever is behind is fed from it.
docs/architecture.md tells the whole story, and walks one change from ingest to socket.

    model/          ids, identities, tables, rows, changes: values only
    errors.py       the faults, by whose they are: the client's, the operator's, the log's edges
    budget/         time slices of the event loop, fair between owners
    protocol/       the WebSocket dialect: messages, session, close codes, frames, compression
    formats/        changes in other programs' shapes: Debezium, CloudEvents and so on
    sql/            the language: SELECT ... WHERE ... to a tree, its types and its normal form
    filters/        conditions at work: bound to a subscriber, compiled, found in an index
    store/          the state derived from the changes: entries, rows, keys, retention, pages
    log/            the order of changes: its interface; SQLite, memory and NATS behind it
    sources/        databases whose tables are followed: copied, then told change by change
    auth/           tokens and API keys to identities
    subscriptions/  handles and their states, plans, ConnectionsManager with its indexes, requests
    delivery/       who is at the head: NotificationService, payloads, frames
    catchup/        who is behind: snapshots, resumes, slow readers, demoted plans
    sockets/        the asyncio side of a connection: upgrade, send buffer, heartbeat
    administration/ connections, subscriptions and tables, listed over all workers
    http/           POST /v1/changes with its decoders and rules; what operators ask
    singleflight.py equal calls made once
    metrics/        what is counted, and the loop's pulse
    scrape.py       ... added up over several processes
    config/         settings from file, environment and flags
    logs.py         log lines for people and machines, without secrets
    loops.py        which event loop to run, asked before there is one
    memory.py       memory that lies idle, given back to the system
    garbage.py      garbage collection in pieces that nobody feels
    endpoints.py    what is answered over HTTP, and at which socket
    worker.py       one process: every room built, started in order, stopped in reverse
    supervision/    several workers on one address, and who keeps them
    app.py          from a configuration to a served address
    cli/            serve, check-config, token, publish, tail, explain, tables, top, kick, ...
    client/         the Python client: reconnects, resumes, keeps live views, posts
    version.py      which release this is

Imports go one way, and a test holds it: errors, version, budget <- model <- config <- protocol,
sql, formats, singleflight, store, auth, logs, loops, memory <- log <- filters, sources <-
subscriptions <- delivery <- catchup <- administration <- http, metrics <- sockets, scrape, garbage
<- endpoints <- worker <- supervision <- app <- cli. The client knows errors, model and protocol at
most. protocol, sql, formats and subscriptions do no I/O: they are tested by calling functions.
"""

from kalam_notify.version import __version__

__all__ = ["__version__"]
