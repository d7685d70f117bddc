#define _GNU_SOURCE
#include "connection.h"

#include "inflate.h"
#include "message.h"
#include "wire.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The key of RFC 6455's own example, and the answer to it. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* Subscribes on the way at once: more would not fit the socket's first buffer. */
enum { IN_FLIGHT = 32, SHARED = 1 << 18, REQUEST = 1 << 16 };

static uint8_t shared[SHARED];
static void *shared_inflater;

static void lost(struct client *client, size_t index, const char *why)
{
    fault(&client->tally, "connection %zu: %s", index, why);
    connection_drop(client, index);
}

static void watch(struct client *client, size_t index, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = index};
    epoll_ctl(client->epoll, operation, client->connections[index].fd, &event);
}

void connection_open(struct client *client, size_t index)
{
    struct connection *c = &client->connections[index];
    int one = 1, size = client->settings.receive_buffer;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fault(&client->tally, "socket: %s", strerror(errno));
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (size)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    c->state = CONNECTING;
    watch(client, index, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(c->fd, (struct sockaddr *)&client->settings.address,
                sizeof client->settings.address) < 0
        && errno != EINPROGRESS)
        lost(client, index, strerror(errno));
}

void connection_drop(struct client *client, size_t index)
{
    struct connection *c = &client->connections[index];

    if (c->state == CLOSED)
        return;
    close(c->fd);
    client->ready -= c->ready ? 1 : 0;
    client->closed++;
    c->state = CLOSED;
    c->ready = c->stalled = 0;
    c->asked = c->live = 0;
    c->have = c->assembled_have = 0;
}

void connection_stall(struct client *client, size_t index, int stalled)
{
    struct connection *c = &client->connections[index];

    if (c->state == CLOSED || c->stalled == stalled)
        return;
    c->stalled = stalled;
    /* taken out of epoll: with no events asked for, a hang-up would still be told, endlessly */
    watch(client, index, stalled ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, EPOLLIN);
}

/* Requests are small and the socket's buffer empty, so a short write means trouble. */
static void put(struct client *client, size_t index, const void *bytes, size_t size)
{
    ssize_t sent = send(client->connections[index].fd, bytes, size, MSG_NOSIGNAL);

    if (sent != (ssize_t)size)
        lost(client, index, sent < 0 ? strerror(errno) : "the socket took part of a request");
}

static void put_frame(struct client *client, size_t index, int opcode, const void *payload,
                      size_t length)
{
    static uint8_t frame[REQUEST + 16];

    if (length > REQUEST)
        lost(client, index, "a request is too long");
    else
        put(client, index, frame, frame_build(frame, opcode, payload, length));
}

static void upgrade(struct client *client, size_t index)
{
    const struct settings *s = &client->settings;
    char request[8192];
    const char *token = s->tokens.count ? s->tokens.line[index % s->tokens.count] : "";
    int size = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s\r\n",
        s->path, s->host,
        s->deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                   : "",
        *token ? "Authorization: Bearer " : "", token, *token ? "\r\n" : "");

    client->connections[index].state = UPGRADING;
    watch(client, index, EPOLL_CTL_MOD, EPOLLIN);
    put(client, index, request, (size_t)size);
}

static void become_ready(struct client *client, struct connection *c)
{
    c->ready = 1;
    client->ready++;
}

static void subscribe_next(struct client *client, size_t index)
{
    const struct settings *s = &client->settings;
    struct connection *c = &client->connections[index];
    static char text[REQUEST];

    while (c->state == OPEN && c->asked < s->subscriptions && c->asked - c->live < IN_FLIGHT) {
        size_t global = index * s->subscriptions + c->asked;
        size_t number = s->unique_ids ? global : c->asked;
        char id[32] = "live", options[64];
        int size;

        if (s->unique_ids || s->subscriptions > 1)
            snprintf(id, sizeof id, "live%zu", number);
        snprintf(options, sizeof options, "{\"from\":%llu}",
                 (unsigned long long)client->subscriptions[global].position);
        size = snprintf(text, sizeof text,
                        "{\"type\":\"subscribe\",\"subscription\":{\"id\":\"%s\",\"sql\":\"%s\","
                        "\"options\":%s}}",
                        id, s->sql.line[global % s->sql.count],
                        client->returning ? options : s->options);
        c->asked++;
        put_frame(client, index, OP_TEXT, text, (size_t)size);
    }
    if (!c->ready && c->live == s->subscriptions)
        become_ready(client, c);
}

/* Consumes the response's head out of the bytes at hand; returns its size, 0 for "not whole". */
static size_t read_response(struct client *client, size_t index, const uint8_t *bytes, size_t have)
{
    struct connection *c = &client->connections[index];
    const uint8_t *end = memmem(bytes, have, "\r\n\r\n", 4);
    char head[4096];
    size_t size = end ? (size_t)(end - bytes) + 4 : 0;

    if (!end)
        return 0;
    snprintf(head, sizeof head, "%.*s", (int)(size < sizeof head ? size : sizeof head - 1), bytes);
    if (!strstr(head, " 101 ") || !strstr(head, ACCEPT)) {
        head[strcspn(head, "\r\n")] = 0;
        fault(&client->tally, "connection %zu: the upgrade was answered with: %s", index, head);
        connection_drop(client, index);
        return 0;
    }
    c->window = 0;
    if (strcasestr(head, "permessage-deflate"))
        c->window = strcasestr(head, "server_no_context_takeover") ? 1 : 2;
    client->deflated += c->window ? 1 : 0;
    c->state = OPEN;
    subscribe_next(client, index);
    return size;
}

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

static void now_live(struct client *client, size_t index)
{
    client->connections[index].live++;
    client->tally.acks++;
    subscribe_next(client, index);
}

static void next_page(struct client *client, size_t index, long number)
{
    char text[128], id[32] = "";
    int size;

    if (number >= 0)
        snprintf(id, sizeof id, "%ld", number);
    size = snprintf(text, sizeof text, "{\"type\":\"next_batch\",\"subscription_id\":\"live%s\"}",
                    id);
    put_frame(client, index, OP_TEXT, text, (size_t)size);
}

static void take_control(struct client *client, size_t index, const struct message *m,
                         struct subscription *sub)
{
    int live_only = !client->returning && strcmp(client->settings.options, "null") == 0;

    if (m->position > sub->position)
        sub->position = m->position;
    client->tally.not_resumed += m->resumed == 0 ? 1 : 0;
    if (m->kind == ACK ? live_only : !m->has_more)
        now_live(client, index);
    else if (m->kind == BATCH)
        next_page(client, index, m->id);
}

static void take_message(struct client *client, size_t index, const char *text, size_t length,
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
            lost(client, index, "a compressed message that cannot be inflated");
            return;
        }
    }
    take_message(client, index, text, length, at);
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
        put_frame(client, index, OP_PONG, f->payload, f->length);
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
        lost(client, index, why);
        break;
    default:
        lost(client, index, "an unexpected frame");
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
        done = read_response(client, index, bytes, have);
        if (done == 0)
            return 0;
    }
    while (c->state == OPEN && (status = frame_parse(bytes + done, have - done, &f)) != 0) {
        if (status < 0) {
            lost(client, index, "a broken frame");
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
static void receive(struct client *client, size_t index)
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
        lost(client, index, got < 0 ? strerror(errno) : "the server hung up");
        return;
    }
    client->tally.bytes += (uint64_t)got;
    got += (ssize_t)c->have;
    done = take_bytes(client, index, bytes, (size_t)got, now_ns());
    if (c->state != CLOSED)
        keep(c, bytes + done, (size_t)got - done);
}

void connection_event(struct client *client, size_t index, uint32_t events)
{
    struct connection *c = &client->connections[index];
    int error = 0;
    socklen_t size = sizeof error;

    if (c->state == CLOSED || c->stalled)
        return;
    if (c->state != CONNECTING) {
        receive(client, index);
        return;
    }
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        lost(client, index, strerror(error));
    else if (events & EPOLLOUT)
        upgrade(client, index);
}

void connection_ping(struct client *client, size_t index)
{
    uint64_t stamp = now_ns();

    if (client->connections[index].state == OPEN)
        put_frame(client, index, OP_PING, &stamp, sizeof stamp);
}
