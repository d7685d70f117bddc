/* WebSocket framing as a client needs it: server frames in, masked client frames out. No I/O. */
#ifndef LOADTEST_WIRE_H
#define LOADTEST_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

struct frame {
    int fin, rsv1, opcode;
    const uint8_t *payload;
    size_t length;
    size_t total; /* header and payload */
};

/* 1: a whole frame in `out`; 0: more bytes are needed, `out->total` says how many once known
 * (0: not yet); -1: not a frame that a server may send. */
int frame_parse(const uint8_t *bytes, size_t have, struct frame *out);

/* Writes a final masked frame (key 0, so the payload stays as it is); returns its length.
 * `out` needs room for `length` + 14 bytes. */
size_t frame_build(uint8_t *out, int opcode, const void *payload, size_t length);

#endif
