/* Reading server messages without a JSON parser.
 *
 * Theory of operation. The bytes of a burst come at hundreds of megabytes per second, so a message
 * is searched, not parsed. Only two members of a row matter: `_seq`, and `x_load`, the text the
 * producer wrote: `<n, ten digits>.<monotonic ns>.<padding>`, the padding being the ten digits of
 * n repeated. Both names hold an underscore, and apart from a few names in the message's head
 * nothing else here does, so memchr for '_' leads from one to the next. The patterns looked for
 * (`"_seq":"`) hold an unescaped quote on both sides of the name and so cannot occur inside a JSON
 * string. JSON without white space between tokens is expected, as servers send it. Old images
 * are skipped: what follows `"old_values":` is not counted.
 */
#ifndef LOADTEST_MESSAGE_H
#define LOADTEST_MESSAGE_H

#include "tally.h"

enum kind { AUTH_SUCCESS, AUTH_ERROR, ACK, BATCH, CHANGE, ERROR_MESSAGE, OTHER };

struct message {
    enum kind kind;
    long id;             /* the number at the end of the subscription id; -1: it ends in none */
    int has_more;        /* batch_control.has_more */
    int resumed;         /* 1, 0, or -1 where the message does not say */
    uint64_t position;   /* batch_control.last_seq_id, 0 where absent */
};

/* Reads the head of a message: what it is and whose. */
void message_head(const char *text, size_t length, struct message *out);

/* Counts and checks the rows of a `change` for one subscription. `at`: when the bytes were read.
 * `contiguous`: the producer's numbers must rise by exactly one. */
void message_rows(const char *text, size_t length, uint64_t at, int contiguous,
                  struct subscription *sub, struct tally *tally);

/* Rows in an `initial_data_batch`: counted as snapshot rows, positions moved. */
void message_snapshot(const char *text, size_t length, struct subscription *sub,
                      struct tally *tally);

#endif
