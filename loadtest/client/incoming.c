#include "incoming.h"

#include "inflate.h"
#include "message.h"
#include "peer.h"
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { SHARED = 1 << 18 };

static uint8_t shared[SHARED];
static void *shared_inflater;

/* The subscription a message speaks of, or NULL when it is none of this connection's. */
static struct subscription *subject(struct client *client, size_t index, const struct message *m)
{
    size_t per = client->settings.subscriptions;
    long first = client->settings.unique_ids ? (long)(index * per) : 0;
    long place = m->id < 0 ? 0 : m->id - first;

    if (place < 0 || (size_t)place >= per)
        return NULL;
    return &client->subscriptions[index * per + (size_t)place];
}

/* Once for each: after a live-only ack, which says so, an empty ready batch may follow. */
static void now_live(struct client *client, size_t index, struct subscription *sub)
{
    if (sub->live)
        return;
    sub->live = 1;
    client->connections[index].live++;
    client->tally.acks++;
    connection_subscribe(client, index);
}

static void next_page(struct client *client, size_t index, long number)
{
    char text[128], id[32] = "";
    int size;

    if (number >= 0)
        snprintf(id, sizeof id, "%ld", number);
    size = snprintf(text, sizeof text, "{\"type\":\"next_batch\",\"subscription_id\":\"live%s\"}",
                    id);
    connection_send(client, index, OP_TEXT, text, (size_t)size);
}

static void take_control(struct client *client, size_t index, const struct message *m,
                         struct subscription *sub)
{
    int live_only = !client->returning && strcmp(client->settings.options, "null") == 0;

    if (m->position > sub->position)
        sub->position = m->position;
    client->tally.not_resumed += m->resumed == 0 ? 1 : 0;
    if (m->kind == ACK ? live_only : !m->has_more)
        now_live(client, index, sub);
    else if (m->kind == BATCH)
        next_page(client, index, m->id);
}

void incoming_message(struct client *client, size_t index, const char *text, size_t length,
                      uint64_t at)
{
    struct message m;
    struct subscription *sub;
    int shown = length < 200 ? (int)length : 200;

    message_head(text, length, &m);
    client->tally.messages++;
    if (m.kind == AUTH_SUCCESS)
        return;
    sub = subject(client, index, &m);
    if (!sub || m.kind == AUTH_ERROR || m.kind == ERROR_MESSAGE || m.kind == OTHER) {
        fault(&client->tally, "connection %zu was told: %.*s", index, shown, text);
        return;
    }
    if (m.kind == CHANGE) {
        if ((size_t)(sub - client->subscriptions) % client->settings.subscriptions
            >= client->settings.receivers)
            fault(&client->tally, "connection %zu: a silent subscription was told: %.*s", index,
                  shown, text);
        message_rows(text, length, at, client->settings.contiguous, sub, &client->tally);
        return;
    }
    if (m.kind == BATCH)
        message_snapshot(text, length, sub, &client->tally);
    take_control(client, index, &m, sub);
}

static void take_payload(struct client *client, size_t index, int packed, const uint8_t *payload,
                         size_t length, uint64_t at)
{
    struct connection *c = &client->connections[index];
    const char *text = (const char *)payload;

    if (packed) {
        text = c->window ? inflate_message(c->window == 2 ? &c->inflater : &shared_inflater,
                                           c->window == 2, payload, length, &length)
                         : NULL;
        if (!text) {
            connection_lost(client, index, "a compressed message that cannot be inflated");
            return;
        }
    }
    incoming_message(client, index, text, length, at);
}

static void take_fragment(struct client *client, size_t index, const struct frame *f, uint64_t at)
{
    struct connection *c = &client->connections[index];
    uint8_t *grown = realloc(c->assembled, c->assembled_have + f->length + 1);

    if (!grown)
        abort();
    c->assembled = grown;
    if (f->opcode != OP_CONTINUATION)
        c->assembled_packed = f->rsv1;
    memcpy(grown + c->assembled_have, f->payload, f->length);
    c->assembled_have += f->length;
    if (f->fin) {
        take_payload(client, index, c->assembled_packed, grown, c->assembled_have, at);
        c->assembled_have = 0;
    }
}

static void take_frame(struct client *client, size_t index, const struct frame *f, uint64_t at)
{
    char why[160];
    uint64_t stamp;

    switch (f->opcode) {
    case OP_TEXT:
        if (f->fin) {
            take_payload(client, index, f->rsv1, f->payload, f->length, at);
            break;
        }
        __attribute__((fallthrough));
    case OP_CONTINUATION:
        take_fragment(client, index, f, at);
        break;
    case OP_PING:
        connection_send(client, index, OP_PONG, f->payload, f->length);
        break;
    case OP_PONG:
        if (f->length == sizeof stamp) {
            memcpy(&stamp, f->payload, sizeof stamp);
            histogram_add(&client->tally.ping, at - stamp);
        }
        break;
    case OP_CLOSE:
        snprintf(why, sizeof why, "closed by the server: %d %.*s",
                 f->length > 1 ? f->payload[0] << 8 | f->payload[1] : 1005,
                 f->length > 2 ? (int)f->length - 2 : 0, f->payload + 2);
        connection_lost(client, index, why);
        break;
    case OP_BINARY:
        if (client->settings.peer == NATS) {
            peer_receive(client, index, f->payload, f->length, at);
            break;
        }
        __attribute__((fallthrough));
    default:
        connection_lost(client, index, "an unexpected frame");
    }
}

/* Takes all whole frames; returns how many bytes they were. */
static size_t take_bytes(struct client *client, size_t index, const uint8_t *bytes, size_t have,
                         uint64_t at)
{
    struct connection *c = &client->connections[index];
    size_t done = 0;
    struct frame f;
    int status;

    if (c->state == UPGRADING) {
        done = connection_response(client, index, bytes, have);
        if (done == 0)
            return 0;
    }
    while (c->state == OPEN && (status = frame_parse(bytes + done, have - done, &f)) != 0) {
        if (status < 0) {
            connection_lost(client, index, "a broken frame");
            break;
        }
        take_frame(client, index, &f, at);
        done += f.total;
    }
    return done;
}

static void make_room(struct connection *c, size_t room)
{
    if (c->room >= room)
        return;
    c->bytes = realloc(c->bytes, room);
    if (!c->bytes)
        abort();
    c->room = room;
}

static void keep(struct connection *c, const uint8_t *bytes, size_t size)
{
    make_room(c, size);
    if (size)
        memmove(c->bytes, bytes, size);
    c->have = size;
}

/* Whole frames are read where they land; only a frame cut by the read is kept for later. */
void connection_receive(struct client *client, size_t index)
{
    struct connection *c = &client->connections[index];
    uint8_t *bytes = shared;
    size_t done;
    ssize_t got;

    if (c->have) {
        make_room(c, c->have + SHARED);
        bytes = c->bytes;
    }
    got = recv(c->fd, bytes + c->have, SHARED, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        connection_lost(client, index, got < 0 ? strerror(errno) : "the server hung up");
        return;
    }
    client->tally.bytes += (uint64_t)got;
    got += (ssize_t)c->have;
    done = take_bytes(client, index, bytes, (size_t)got, now_ns());
    if (c->state != CLOSED)
        keep(c, bytes + done, (size_t)got - done);
}
