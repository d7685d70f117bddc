#define _GNU_SOURCE
#include "peer.h"

#include "incoming.h"
#include "wire.h"

#include <stdlib.h>
#include <string.h>

static void say(struct client *client, size_t index, const char *text)
{
    connection_send(client, index, OP_BINARY, text, strlen(text));
}

/* All subscriptions of the connection are live: there is nothing to ask for. */
static void all_live(struct client *client, size_t index)
{
    struct connection *c = &client->connections[index];

    c->asked = c->live = (uint32_t)client->settings.subscriptions;
    connection_subscribe(client, index);
}

void peer_subscribe(struct client *client, size_t index)
{
    if (client->settings.peer == NATS)
        say(client, index, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB load 1\r\nPING\r\n");
    else
        all_live(client, index);
}

/* One line with, after a MSG, its payload; returns its size, 0: not whole. */
static size_t take(struct client *client, size_t index, const char *line, size_t have, uint64_t at)
{
    const char *end = memchr(line, '\n', have);
    size_t size = end ? (size_t)(end - line) + 1 : 0, payload;

    if (!end)
        return 0;
    if (memcmp(line, "MSG ", have < 4 ? have : 4) == 0) {
        const char *last = memrchr(line, ' ', size);
        payload = strtoul(last + 1, NULL, 10);
        if (have < size + payload + 2)
            return 0;
        incoming_message(client, index, line + size, payload, at);
        return size + payload + 2;
    }
    if (memcmp(line, "PING", 4) == 0)
        say(client, index, "PONG\r\n");
    else if (memcmp(line, "PONG", 4) == 0)
        all_live(client, index);
    else if (*line == '-')
        connection_lost(client, index, "NATS told an error");
    return size;
}

void peer_receive(struct client *client, size_t index, const uint8_t *bytes, size_t length,
                  uint64_t at)
{
    struct connection *c = &client->connections[index];
    size_t done = 0, one;

    if (c->assembled_have) {
        c->assembled = realloc(c->assembled, c->assembled_have + length);
        if (!c->assembled)
            abort();
        memcpy(c->assembled + c->assembled_have, bytes, length);
        bytes = c->assembled;
        length += c->assembled_have;
    }
    while (c->state == OPEN && done < length
           && (one = take(client, index, (const char *)bytes + done, length - done, at)) != 0)
        done += one;
    c->assembled_have = length - done;
    if (bytes == c->assembled)
        memmove(c->assembled, bytes + done, c->assembled_have);
    else if (c->assembled_have) {
        c->assembled = realloc(c->assembled, c->assembled_have);
        if (!c->assembled)
            abort();
        memcpy(c->assembled, bytes + done, c->assembled_have);
    }
}
