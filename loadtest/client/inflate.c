#include "inflate.h"

#ifdef HAVE_ZLIB

#include <stdlib.h>
#include <zlib.h>

static uint8_t *plain_bytes;
static size_t plain_size;

int inflate_available(void) { return 1; }

static int pump(z_stream *z, const uint8_t *bytes, size_t length, size_t *done)
{
    z->next_in = (Bytef *)(uintptr_t)bytes;
    z->avail_in = (uInt)length;
    do {
        int status;
        if (plain_size - *done < 65536) {
            uint8_t *grown = realloc(plain_bytes, plain_size * 2 + 131072);
            if (!grown)
                return -1;
            plain_bytes = grown;
            plain_size = plain_size * 2 + 131072;
        }
        z->next_out = plain_bytes + *done;
        z->avail_out = (uInt)(plain_size - *done);
        status = inflate(z, Z_SYNC_FLUSH);
        *done = plain_size - z->avail_out;
        if (status != Z_OK && status != Z_BUF_ERROR)
            return -1;
    } while (z->avail_in > 0 || z->avail_out == 0);
    return 0;
}

const char *inflate_message(void **context, int keep, const uint8_t *bytes, size_t length,
                            size_t *plain)
{
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
    z_stream *z = *context;

    if (!z) {
        z = calloc(1, sizeof *z);
        if (!z || inflateInit2(z, -15) != Z_OK)
            return NULL;
        *context = z;
    } else if (!keep) {
        inflateReset(z);
    }
    *plain = 0;
    if (pump(z, bytes, length, plain) || pump(z, tail, sizeof tail, plain))
        return NULL;
    return (const char *)plain_bytes;
}

#else

int inflate_available(void) { return 0; }

const char *inflate_message(void **context, int keep, const uint8_t *bytes, size_t length,
                            size_t *plain)
{
    (void)context, (void)keep, (void)bytes, (void)length;
    *plain = 0;
    return NULL;
}

#endif
