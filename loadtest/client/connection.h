/* One subscriber's connection: connect, upgrade, subscribe, read, and come back after a drop. */
#ifndef LOADTEST_CONNECTION_H
#define LOADTEST_CONNECTION_H

#include "tally.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

struct lines {
    char **line;
    size_t count;
};

enum peer { OURS, PLAIN, NATS }; /* see peer.h */

struct settings {
    struct sockaddr_in address;
    const char *host, *path;
    size_t connections, subscriptions; /* per connection */
    size_t receivers; /* of these: the first so many are to get rows, the others none */
    int unique_ids, contiguous, deflate;
    int receive_buffer;  /* SO_RCVBUF in bytes; 0: the system's own */
    enum peer peer;
    const char *options; /* JSON of `options`; "null": live only */
    struct lines sql;    /* JSON-escaped; subscription i takes line i modulo count */
    struct lines tokens; /* connection i takes line i modulo count; none: anonymous */
};

enum state { CLOSED, CONNECTING, UPGRADING, OPEN };

struct connection {
    int fd;
    enum state state;
    int ready; /* all its subscriptions are live */
    int stalled;
    int window;         /* permessage-deflate: 0 none, 1 afresh per message, 2 kept */
    uint32_t asked, live;
    uint8_t *bytes;     /* a message or frame that is not whole yet */
    size_t have, room;
    uint8_t *assembled; /* fragments of a message, and whether they are compressed */
    size_t assembled_have;
    int assembled_packed;
    void *inflater;
};

struct client {
    struct settings settings;
    struct connection *connections;
    struct subscription *subscriptions;
    struct tally tally;
    size_t ready, closed, deflated;
    int epoll;
    int returning; /* subscribe with `from` */
};

/* Starts a connection; it is `ready` some events later. */
void connection_open(struct client *client, size_t index);

/* What epoll said of it. */
void connection_event(struct client *client, size_t index, uint32_t events);

/* Closed without a word, as a client that crashes. */
void connection_drop(struct client *client, size_t index);

/* While stalled the connection reads nothing. */
void connection_stall(struct client *client, size_t index, int stalled);

/* Sends a ping that carries the time. */
void connection_ping(struct client *client, size_t index);

/* What reading (incoming.c) needs of writing. */

/* Counts a fault and drops the connection. */
void connection_lost(struct client *client, size_t index, const char *why);

/* Sends one frame. */
void connection_send(struct client *client, size_t index, int opcode, const void *payload,
                     size_t length);

/* Sends as many of the outstanding subscribes as may be on the way at once. */
void connection_subscribe(struct client *client, size_t index);

/* Takes the answer to the upgrade out of the bytes at hand; returns its size, 0: not whole. */
size_t connection_response(struct client *client, size_t index, const uint8_t *bytes, size_t have);

#endif
