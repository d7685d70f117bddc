#define _GNU_SOURCE
#include "message.h"

#include <string.h>

#define LITERAL(text) (text), (sizeof(text) - 1)

/* Heads are short: a member that is not found here is not in the head. */
enum { HEAD = 1024 };

static const char *after(const char *text, size_t length, const char *name, size_t size)
{
    const char *found = memmem(text, length, name, size);
    return found ? found + size : NULL;
}

static uint64_t digits(const char **at, const char *end)
{
    uint64_t value = 0;
    const char *p = *at;

    while (p < end && *p >= '0' && *p <= '9')
        value = value * 10 + (uint64_t)(*p++ - '0');
    *at = p;
    return value;
}

static enum kind kind_of(const char *p, const char *end)
{
    static const struct { const char *name; enum kind kind; } kinds[] = {
        {"change\"", CHANGE}, {"subscription_ack\"", ACK}, {"initial_data_batch\"", BATCH},
        {"auth_success\"", AUTH_SUCCESS}, {"auth_error\"", AUTH_ERROR}, {"error\"", ERROR_MESSAGE},
    };

    for (size_t i = 0; p && i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t size = strlen(kinds[i].name);
        if ((size_t)(end - p) >= size && memcmp(p, kinds[i].name, size) == 0)
            return kinds[i].kind;
    }
    return OTHER;
}

static long id_number(const char *p, const char *end)
{
    const char *quote = p ? memchr(p, '"', (size_t)(end - p)) : NULL;
    const char *first = quote;

    if (!quote)
        return -1;
    while (first > p && first[-1] >= '0' && first[-1] <= '9')
        first--;
    return first == quote ? -1 : (long)digits(&first, quote);
}

void message_head(const char *text, size_t length, struct message *out)
{
    const char *end = text + length;
    size_t head = length < HEAD ? length : HEAD;
    const char *p;

    out->kind = kind_of(after(text, head, LITERAL("\"type\":\"")), end);
    out->id = id_number(after(text, head, LITERAL("\"subscription_id\":\"")), end);
    out->has_more = 0;
    out->resumed = -1;
    out->position = 0;
    if (out->kind != ACK && out->kind != BATCH)
        return;
    /* batch_control may stand behind the rows, so the whole message is searched */
    out->has_more = after(text, length, LITERAL("\"has_more\":true")) != NULL;
    if (after(text, length, LITERAL("\"resumed\":")))
        out->resumed = after(text, length, LITERAL("\"resumed\":true")) != NULL;
    p = after(text, length, LITERAL("\"last_seq_id\":"));
    if (p)
        out->position = digits(&p, end);
}

/* `<n>.<ns>.<padding>`; returns the end of what was read, or NULL when it is not that. */
static const char *read_load(const char *p, const char *end, uint64_t at, uint64_t *n,
                             struct tally *tally)
{
    const char *number = p, *quote;
    uint64_t stamp;

    *n = digits(&p, end);
    if (p - number != 10 || p >= end || *p++ != '.')
        return NULL;
    stamp = digits(&p, end);
    if (p >= end || *p++ != '.')
        return NULL;
    quote = memchr(p, '"', (size_t)(end - p));
    if (!quote)
        return NULL;
    if (quote - p >= 10
        && (memcmp(p, number, 10) != 0 || memcmp(p, p + 10, (size_t)(quote - p) - 10) != 0))
        return NULL;
    histogram_add(&tally->delay, at > stamp ? at - stamp : 0);
    return quote;
}

static void take_seq(const char **p, const char *end, struct subscription *sub,
                     struct tally *tally)
{
    uint64_t seq = digits(p, end);

    if (seq <= sub->last_seq)
        fault(tally, "_seq %llu came after %llu", (unsigned long long)seq,
              (unsigned long long)sub->last_seq);
    sub->last_seq = seq;
    if (seq > sub->position)
        sub->position = seq;
}

static void take_number(uint64_t n, int contiguous, struct subscription *sub, struct tally *tally)
{
    if (contiguous && sub->last_n && n != sub->last_n + 1)
        fault(tally, "row %llu came after row %llu", (unsigned long long)n,
              (unsigned long long)sub->last_n);
    sub->last_n = n;
    sub->rows++;
    sub->sum += n;
    tally->rows++;
    tally->sum += n;
}

void message_rows(const char *text, size_t length, uint64_t at, int contiguous,
                  struct subscription *sub, struct tally *tally)
{
    const char *end = text + length, *p = text + 2;
    uint64_t seqs = 0, loads = 0, n;

    while (p < end && (p = memchr(p, '_', (size_t)(end - p)))) {
        size_t left = (size_t)(end - p);
        if (left > 8 && memcmp(p - 1, LITERAL("\"_seq\":\"")) == 0) {
            p += 7;
            take_seq(&p, end, sub, tally);
            seqs++;
        } else if (left > 9 && memcmp(p - 2, LITERAL("\"x_load\":\"")) == 0) {
            const char *past = read_load(p + 8, end, at, &n, tally);
            if (!past) {
                fault(tally, "a row whose content is not what was posted: %.*s",
                      left < 80 ? (int)left : 80, p);
                return;
            }
            take_number(n, contiguous, sub, tally);
            loads++;
            p = past;
        } else if (p - text > 4 && left > 9 && memcmp(p - 4, LITERAL("\"old_values\":")) == 0) {
            p = after(p, left, LITERAL("\"rows\":[")); /* new rows may still follow */
            if (!p)
                break;
        } else {
            p++;
        }
    }
    if (seqs != loads)
        fault(tally, "%llu rows with %llu seqs", (unsigned long long)loads,
              (unsigned long long)seqs);
}

void message_snapshot(const char *text, size_t length, struct subscription *sub,
                      struct tally *tally)
{
    const char *end = text + length, *p = text;

    while ((p = after(p, (size_t)(end - p), LITERAL("\"_seq\":\"")))) {
        uint64_t seq = digits(&p, end);
        sub->position = seq > sub->position ? seq : sub->position;
        tally->snapshot_rows++;
    }
}
