#include "tally.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
uint64_t cpu_ns(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

static size_t bucket_of(uint64_t ns)
{
    int power;

    if (ns < STEPS)
        return (size_t)ns;
    power = 63 - __builtin_clzll(ns); /* 5 or more */
    return (size_t)(power - 4) * STEPS + (size_t)((ns >> (power - 5)) & (STEPS - 1));
}

static uint64_t bucket_floor(size_t bucket)
{
    size_t power = bucket / STEPS;

    if (power == 0)
        return bucket;
    return ((uint64_t)STEPS + bucket % STEPS) << (power - 1);
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    h->bucket[bucket_of(ns)]++;
    h->count++;
    if (ns > h->max)
        h->max = ns;
}

void fault(struct tally *t, const char *format, ...)
{
    if (t->faults < 5) {
        va_list args;
        va_start(args, format);
        vsnprintf(t->fault_text[t->faults], sizeof t->fault_text[0], format, args);
        va_end(args);
    }
    t->faults++;
}

/* JSON string content: quotes and backslashes escaped, anything outside ASCII replaced. */
static void put_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text >= 32 && *text < 127 ? *text : '?');
    }
}

static void put_histogram(const char *name, const struct histogram *h)
{
    const char *comma = "";

    printf(",\"%s\":{\"count\":%llu,\"max\":%llu,\"buckets\":[", name,
           (unsigned long long)h->count, (unsigned long long)h->max);
    for (size_t i = 0; i < BUCKETS; i++) {
        if (h->bucket[i] == 0)
            continue;
        printf("%s[%llu,%llu]", comma, (unsigned long long)bucket_floor(i),
               (unsigned long long)h->bucket[i]);
        comma = ",";
    }
    printf("]}");
}

void tally_report(const struct tally *t, const struct subscription *subs, size_t connections,
                  size_t per, size_t receivers)
{
    uint64_t least = UINT64_MAX, most = 0, low = UINT64_MAX, high = 0, placed = 0;
    size_t kept = t->faults < 5 ? (size_t)t->faults : 5;

    for (size_t c = 0; c < connections; c++) {
        uint64_t rows = 0, sum = 0;
        for (size_t i = 0; i < receivers; i++) {
            const struct subscription *sub = &subs[c * per + i];
            placed += (c * receivers + i + 1) * sub->sum; /* a row at the wrong one changes it */
            rows += sub->rows;
            sum += sub->sum;
        }
        least = rows < least ? rows : least;
        most = rows > most ? rows : most;
        low = sum < low ? sum : low;
        high = sum > high ? sum : high;
    }
    if (!connections)
        least = low = 0;
    printf("{\"event\":\"report\",\"rows\":%llu,\"messages\":%llu,\"bytes\":%llu,"
           "\"snapshot_rows\":%llu,\"sum\":%llu,\"least_rows\":%llu,\"most_rows\":%llu,"
           "\"least_sum\":%llu,\"most_sum\":%llu,\"placed\":%llu,\"not_resumed\":%llu,"
           "\"cpu_ns\":%llu,\"faults\":%llu,\"fault_texts\":[",
           (unsigned long long)t->rows, (unsigned long long)t->messages,
           (unsigned long long)t->bytes, (unsigned long long)t->snapshot_rows,
           (unsigned long long)t->sum, (unsigned long long)least, (unsigned long long)most,
           (unsigned long long)low, (unsigned long long)high, (unsigned long long)placed,
           (unsigned long long)t->not_resumed, (unsigned long long)cpu_ns(),
           (unsigned long long)t->faults);
    for (size_t i = 0; i < kept; i++) {
        printf("%s\"", i ? "," : "");
        put_text(t->fault_text[i]);
        putchar('"');
    }
    putchar(']');
    put_histogram("delay", &t->delay);
    put_histogram("ping", &t->ping);
    puts("}");
    fflush(stdout);
}

void tally_reset(struct tally *t, struct subscription *subs, size_t count)
{
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < count; i++)
        subs[i].rows = subs[i].sum = 0;
}
