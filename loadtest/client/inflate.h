/* permessage-deflate, receiving side. Without zlib every call reports failure. */
#ifndef LOADTEST_INFLATE_H
#define LOADTEST_INFLATE_H

#include <stddef.h>
#include <stdint.h>

int inflate_available(void);

/* One message. `*context` is the connection's own window, or one shared by all connections where
 * the server keeps none (`keep` 0: started afresh for each message). Returns the plain bytes,
 * valid until the next call, or NULL. */
const char *inflate_message(void **context, int keep, const uint8_t *bytes, size_t length,
                            size_t *plain);

#endif
