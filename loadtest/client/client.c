/* Many WebSocket subscribers in one process: what the load test measures against.
 *
 * Theory of operation. One epoll loop holds all connections. It is told what to do by lines on
 * stdin and tells what happened by JSON lines on stdout:
 *
 *   target R   tell `target` once R rows have arrived since the last reset
 *   report     tell everything counted
 *   reset      count from zero again
 *   stall      stop reading on every connection; `read` goes on
 *   drop       close every connection; `return` opens them again, each resuming where it was
 *   quit       (or the end of stdin) leave
 *
 * The commands that change something are answered with `done`, so that whoever gave one can wait
 * before posting what it is to apply to. Told unasked: `ready` when every subscription is
 * live, and `progress` twice a second.
 */
#define _GNU_SOURCE
#include "connection.h"
#include "inflate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS = 512, PROGRESS_NS = 500000000 };
static const uint64_t STDIN_TAG = UINT64_MAX, PING_TAG = UINT64_MAX - 1;

static struct client client;
static size_t next_to_open, ramp = 256;
static uint64_t target = UINT64_MAX, opened_at, told_progress;
static int told_ready, quitting;
static int ping_timer = -1;

static struct lines read_lines(const char *path)
{
    struct lines lines = {NULL, 0};
    size_t room = 0, size = 0;
    char *line = NULL;
    FILE *file = fopen(path, "r");
    ssize_t length;

    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    while ((length = getline(&line, &size, file)) > 0) {
        line[strcspn(line, "\n")] = 0;
        if (lines.count == room) {
            room = room ? room * 2 : 64;
            lines.line = realloc(lines.line, room * sizeof *lines.line);
        }
        if (!lines.line || !(lines.line[lines.count++] = strdup(line)))
            abort();
    }
    free(line);
    fclose(file);
    return lines;
}

static void tell(const char *event)
{
    printf("{\"event\":\"%s\",\"ns\":%llu,\"ready\":%zu,\"deflated\":%zu,\"rows\":%llu,"
           "\"faults\":%llu,\"fault_text\":\"",
           event, (unsigned long long)now_ns(), client.ready, client.deflated,
           (unsigned long long)client.tally.rows, (unsigned long long)client.tally.faults);
    for (const char *p = client.tally.fault_text[0]; client.tally.faults && *p; p++)
        putchar(*p == '"' || *p == '\\' || *p < 32 ? '\'' : *p);
    printf("\",\"seconds\":%.3f}\n", (double)(now_ns() - opened_at) / 1e9);
    fflush(stdout);
}

/* At most `ramp` connections are on the way at any time. */
static void open_more(void)
{
    while (next_to_open < client.settings.connections
           && next_to_open - client.ready - client.closed < ramp)
        connection_open(&client, next_to_open++);
}

static void open_all(void)
{
    next_to_open = client.ready = client.closed = 0;
    told_ready = 0;
    opened_at = now_ns();
    open_more();
}

static void each(void (*act)(struct client *, size_t, int), int argument)
{
    for (size_t i = 0; i < client.settings.connections; i++)
        act(&client, i, argument);
}

static void drop(struct client *c, size_t index, int unused)
{
    (void)unused;
    connection_drop(c, index);
}

static void command(const char *line)
{
    size_t count = client.settings.connections * client.settings.subscriptions;

    if (sscanf(line, "target %lu", &target) == 1)
        return;
    if (!strcmp(line, "report")) {
        tally_report(&client.tally, client.subscriptions, client.settings.connections,
                     client.settings.subscriptions, client.settings.receivers);
        return;
    }
    if (!strcmp(line, "reset"))
        tally_reset(&client.tally, client.subscriptions, count);
    else if (!strcmp(line, "stall"))
        each(connection_stall, 1);
    else if (!strcmp(line, "read"))
        each(connection_stall, 0);
    else if (!strcmp(line, "drop"))
        each(drop, 0);
    else if (!strcmp(line, "return")) {
        client.returning = 1;
        open_all();
    } else if (!strcmp(line, "quit"))
        quitting = 1;
    else
        fprintf(stderr, "unknown command: %s\n", line);
    tell("done");
}

static void read_commands(void)
{
    static char text[4096];
    static size_t have;
    ssize_t got = read(STDIN_FILENO, text + have, sizeof text - 1 - have);
    char *newline;

    if (got <= 0) {
        quitting = got == 0 || errno != EAGAIN;
        return;
    }
    have += (size_t)got;
    text[have] = 0;
    while ((newline = strchr(text, '\n'))) {
        size_t rest = have - (size_t)(newline + 1 - text);
        *newline = 0;
        command(text);
        memmove(text, newline + 1, rest + 1);
        have = rest;
    }
}

static void handle(uint64_t tag, uint32_t events)
{
    uint64_t expirations;

    if (tag == STDIN_TAG)
        read_commands();
    else if (tag != PING_TAG)
        connection_event(&client, (size_t)tag, events);
    else if (read(ping_timer, &expirations, sizeof expirations) > 0)
        connection_ping(&client, 0);
}

static void settle(void)
{
    open_more();
    if (!told_ready && client.ready == client.settings.connections) {
        told_ready = 1;
        tell("ready");
    }
    if (client.tally.rows >= target) {
        target = UINT64_MAX;
        tell("target");
    }
    if (now_ns() - told_progress > PROGRESS_NS) {
        told_progress = now_ns();
        tell("progress");
    }
}

static void run(void)
{
    struct epoll_event events[EVENTS];

    while (!quitting) {
        int count = epoll_wait(client.epoll, events, EVENTS, 500);
        for (int i = 0; i < count; i++)
            handle(events[i].data.u64, events[i].events);
        settle();
    }
}

static void watch(int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    epoll_ctl(client.epoll, EPOLL_CTL_ADD, fd, &event);
}

static void start_pings(long microseconds)
{
    struct itimerspec every = {
        .it_interval = {microseconds / 1000000, microseconds % 1000000 * 1000},
        .it_value = {0, 1000000},
    };

    ping_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    timerfd_settime(ping_timer, 0, &every, NULL);
    watch(ping_timer, PING_TAG);
}

static void raise_file_limit(void)
{
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < client.settings.connections + 16) {
        fprintf(stderr, "only %lu files may be open\n", (unsigned long)limit.rlim_cur);
        exit(2);
    }
}

enum { HOST = 256, PORT, PATH, CONNECTIONS, SUBSCRIPTIONS, RECEIVERS, SQL, TOKENS, OPTIONS, RAMP, PING,
       RECEIVE_BUFFER, PEER };

/* Returns the microseconds between pings, 0 for none. */
static long read_settings(int argc, char **argv)
{
    struct settings *s = &client.settings;
    const struct option names[] = {
        {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"path", 1, 0, PATH},
        {"connections", 1, 0, CONNECTIONS}, {"subscriptions", 1, 0, SUBSCRIPTIONS},
        {"receivers", 1, 0, RECEIVERS},
        {"sql-file", 1, 0, SQL}, {"token-file", 1, 0, TOKENS}, {"options", 1, 0, OPTIONS},
        {"ramp", 1, 0, RAMP}, {"ping-us", 1, 0, PING}, {"rcvbuf", 1, 0, RECEIVE_BUFFER},
        {"peer", 1, 0, PEER},
        {"unique-ids", 0, &s->unique_ids, 1}, {"contiguous", 0, &s->contiguous, 1},
        {"deflate", 0, &s->deflate, 1}, {0, 0, 0, 0},
    };
    long ping = 0;
    int name;

    *s = (struct settings){.host = "127.0.0.1", .path = "/v1/ws", .connections = 1,
                           .subscriptions = 1, .receivers = SIZE_MAX, .options = "null"};
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case HOST: s->host = optarg; break;
        case PORT: s->address.sin_port = htons((uint16_t)atoi(optarg)); break;
        case PATH: s->path = optarg; break;
        case CONNECTIONS: s->connections = strtoul(optarg, NULL, 10); break;
        case SUBSCRIPTIONS: s->subscriptions = strtoul(optarg, NULL, 10); break;
        case RECEIVERS: s->receivers = strtoul(optarg, NULL, 10); break;
        case SQL: s->sql = read_lines(optarg); break;
        case TOKENS: s->tokens = read_lines(optarg); break;
        case OPTIONS: s->options = optarg; break;
        case RAMP: ramp = strtoul(optarg, NULL, 10); break;
        case PING: ping = atol(optarg); break;
        case RECEIVE_BUFFER: s->receive_buffer = atoi(optarg); break;
        case PEER: s->peer = strcmp(optarg, "nats") == 0 ? NATS : PLAIN; break;
        case 0: break;
        default: exit(2);
        }
    }
    if (s->receivers > s->subscriptions)
        s->receivers = s->subscriptions;
    s->address.sin_family = AF_INET;
    if (inet_pton(AF_INET, s->host, &s->address.sin_addr) != 1
        || (s->subscriptions && !s->sql.count) || (s->deflate && !inflate_available())) {
        fprintf(stderr, "--host must be an IPv4 address, --sql-file must hold SQL, and --deflate "
                        "needs a build with zlib\n");
        exit(2);
    }
    return ping;
}

int main(int argc, char **argv)
{
    long ping = read_settings(argc, argv);
    const struct settings *s = &client.settings;

    raise_file_limit();
    client.connections = calloc(s->connections + 1, sizeof *client.connections);
    client.subscriptions = calloc(s->connections * s->subscriptions + 1,
                                  sizeof *client.subscriptions);
    client.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!client.connections || !client.subscriptions || client.epoll < 0)
        abort();
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    watch(STDIN_FILENO, STDIN_TAG);
    if (ping)
        start_pings(ping);
    open_all();
    run();
    return 0;
}
