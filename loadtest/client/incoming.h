/* From a socket's bytes to counted rows: frames, fragments, compression, messages. */
#ifndef LOADTEST_INCOMING_H
#define LOADTEST_INCOMING_H

#include "connection.h"

/* Reads what has come, once, and takes all that is whole of it. */
void connection_receive(struct client *client, size_t index);

/* Takes one message; `at`: when its bytes were read. */
void incoming_message(struct client *client, size_t index, const char *text, size_t length,
                      uint64_t at);

#endif
