/* What arrived: counts, checks and delays, and how they are told as JSON. */
#ifndef LOADTEST_TALLY_H
#define LOADTEST_TALLY_H

#include <stddef.h>
#include <stdint.h>

/* Log-linear histogram of nanoseconds: 32 steps per power of two, so 3 % resolution. */
enum { STEPS = 32, BUCKETS = 60 * STEPS };

struct histogram {
    uint64_t count, max;
    uint64_t bucket[BUCKETS];
};

/* One subscription. The sums let the other side prove content without seeing every row. */
struct subscription {
    uint64_t position; /* highest `_seq` or `last_seq_id` seen: where a resume starts */
    uint64_t last_seq; /* of a row in a `change`; must rise strictly */
    uint64_t last_n;   /* the producer's own number of the last row */
    uint64_t rows;
    uint64_t sum; /* of the producer's numbers, modulo 2^64 */
    int live;     /* on the connection of now */
};

struct tally {
    uint64_t rows, messages, bytes, snapshot_rows;
    uint64_t sum;
    uint64_t faults;
    uint64_t acks, not_resumed;
    char fault_text[5][240];
    struct histogram delay; /* from the producer's stamp to the read that brought the row */
    struct histogram ping;  /* from a ping to its pong */
};

uint64_t now_ns(void);
uint64_t cpu_ns(void);

void histogram_add(struct histogram *h, uint64_t ns);

/* Counts a fault and keeps the text of the first few. */
void fault(struct tally *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One line `{"event":"report",...}` on stdout. Of the `per` subscriptions of a connection the first
 * `receivers` are to get rows. Least and most are of whole connections, for a row that several
 * tables share out reaches each connection once; `placed` weighs every receiver's sum by its
 * place among all receivers. */
void tally_report(const struct tally *t, const struct subscription *subs, size_t connections,
                  size_t per, size_t receivers);

/* Zero everything that counts; positions stay. */
void tally_reset(struct tally *t, struct subscription *subs, size_t count);

#endif
