/* From a socket's bytes to counted rows: frames, fragments, compression, messages. */
#ifndef LOADTEST_INCOMING_H
#define LOADTEST_INCOMING_H

#include "connection.h"

/* Reads what has come, once, and takes all that is whole of it. */
void connection_receive(struct client *client, size_t index);

#endif
