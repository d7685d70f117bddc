#define _GNU_SOURCE
#include "connection.h"

#include "incoming.h"
#include "peer.h"
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
enum { IN_FLIGHT = 32, REQUEST = 1 << 16 };

void connection_lost(struct client *client, size_t index, const char *why)
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
    size_t per = client->settings.subscriptions;

    for (size_t i = 0; i < per; i++)
        client->subscriptions[index * per + i].live = 0;
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
        connection_lost(client, index, strerror(errno));
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
        connection_lost(client, index,
                        sent < 0 ? strerror(errno) : "the socket took part of a request");
}

void connection_send(struct client *client, size_t index, int opcode, const void *payload,
                      size_t length)
{
    static uint8_t frame[REQUEST + 16];

    if (length > REQUEST)
        connection_lost(client, index, "a request is too long");
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

void connection_subscribe(struct client *client, size_t index)
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
        connection_send(client, index, OP_TEXT, text, (size_t)size);
    }
    if (!c->ready && c->live == s->subscriptions)
        become_ready(client, c);
}

size_t connection_response(struct client *client, size_t index, const uint8_t *bytes, size_t have)
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
    if (client->settings.peer == OURS)
        connection_subscribe(client, index);
    else
        peer_subscribe(client, index);
    return size;
}

void connection_event(struct client *client, size_t index, uint32_t events)
{
    struct connection *c = &client->connections[index];
    int error = 0;
    socklen_t size = sizeof error;

    if (c->state == CLOSED || c->stalled)
        return;
    if (c->state != CONNECTING) {
        connection_receive(client, index);
        return;
    }
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        connection_lost(client, index, strerror(error));
    else if (events & EPOLLOUT)
        upgrade(client, index);
}

void connection_ping(struct client *client, size_t index)
{
    uint64_t stamp = now_ns();

    if (client->connections[index].state == OPEN)
        connection_send(client, index, OP_PING, &stamp, sizeof stamp);
}
