/* Subscribing to servers that do not speak our protocol, and reading what they send.
 *
 * plain: every text message is a `change`, and who is connected is subscribed (nchan, a broadcast).
 * nats:  NATS' own protocol as a stream of bytes in binary frames, however it is cut into frames;
 *        the payload of every MSG is a `change`. */
#ifndef LOADTEST_PEER_H
#define LOADTEST_PEER_H

#include "connection.h"

/* After the upgrade. */
void peer_subscribe(struct client *client, size_t index);

/* The payload of a binary frame. */
void peer_receive(struct client *client, size_t index, const uint8_t *bytes, size_t length,
                  uint64_t at);

#endif
