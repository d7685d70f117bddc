#include "wire.h"

#include <string.h>

int frame_parse(const uint8_t *bytes, size_t have, struct frame *out)
{
    size_t header = 2;
    uint64_t length;

    out->total = 0;
    if (have < 2)
        return 0;
    if ((bytes[1] & 0x80) || (bytes[0] & 0x30))
        return -1; /* a server must not mask; RSV2 and RSV3 were never negotiated */
    length = bytes[1];
    if (length >= 126) {
        int wide = length == 127 ? 8 : 2;
        header += (size_t)wide;
        if (have < header)
            return 0;
        length = 0;
        for (int i = 0; i < wide; i++)
            length = length << 8 | bytes[2 + i];
    }
    if (length > (uint64_t)1 << 30)
        return -1;
    out->fin = bytes[0] >> 7;
    out->rsv1 = bytes[0] >> 6 & 1;
    out->opcode = bytes[0] & 15;
    out->payload = bytes + header;
    out->length = (size_t)length;
    out->total = header + (size_t)length;
    return have >= out->total;
}

size_t frame_build(uint8_t *out, int opcode, const void *payload, size_t length)
{
    size_t at = 0;

    out[at++] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        out[at++] = (uint8_t)(0x80 | length);
    } else if (length < 65536) {
        out[at++] = 0x80 | 126;
        out[at++] = (uint8_t)(length >> 8);
        out[at++] = (uint8_t)length;
    } else {
        out[at++] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            out[at++] = (uint8_t)((uint64_t)length >> shift);
    }
    memset(out + at, 0, 4);
    at += 4;
    memcpy(out + at, payload, length);
    return at + length;
}
