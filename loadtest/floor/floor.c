/* The floor: what the kernel alone asks for one message to N sockets.
 *
 * Theory of operation. Accepts connections and answers the upgrade and the subscribe with canned
 * bytes, so that the very same client can be used; then, told by lines on stdin, walks all sockets
 * with one send() of a prebuilt frame each and adds up its own user and system time over the walks
 * alone. Nothing is parsed, filtered or queued: no server that sends each message to each socket
 * can spend less.
 *
 *   send K U   K messages to every socket, U microseconds from one's start to the next's;
 *              tells `sent`
 *   quit       (or the end of stdin) leave
 *
 * The payload comes from a file: a `change` message whose rows hold `"_seq":"<digits>"` and
 * `"x_load":"<n, ten digits>.<19 digits of ns>.<padding>"`; both are rewritten, in place and at the
 * same width, before each walk.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 1 << 17, EVENTS = 256 };
enum state { NONE, NEW, GREETED, LIVE };

static const char UPGRADE[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char WELCOME[] =
    "{\"type\":\"auth_success\",\"user\":\"floor\",\"user_id\":\"floor\",\"role\":\"user\","
    "\"protocol\":{\"serialization\":\"json\",\"compression\":\"none\"}}";
static const char ACK[] =
    "{\"type\":\"subscription_ack\",\"subscription_id\":\"live\",\"total_rows\":0,"
    "\"batch_control\":{\"batch_num\":0,\"has_more\":false,\"status\":\"ready\","
    "\"last_seq_id\":0},\"schema\":[]}";

static enum state states[FILES];
static int sockets[FILES];
static size_t live;
static int epoll, listener, quitting;
static uint8_t *frame;
static size_t frame_size, payload_at;
static uint64_t number, blocked;

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void forget(int fd)
{
    for (size_t i = 0; states[fd] == LIVE && i < live; i++) {
        if (sockets[i] == fd) {
            sockets[i] = sockets[--live];
            break;
        }
    }
    states[fd] = NONE;
    close(fd);
}

static void accept_all(void)
{
    int fd, one = 1;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= FILES) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        states[fd] = NEW;
        watch(fd);
    }
}

/* `before` as it is, then a text frame of 126 to 65,535 bytes, in one send. */
static void answer(int fd, const char *before, const char *text)
{
    char bytes[1024];
    size_t size = strlen(text);
    int length = snprintf(bytes, sizeof bytes, "%s\x81\x7e%c%c%s", before, (int)(size >> 8),
                          (int)(size & 255), text);

    send(fd, bytes, (size_t)length, MSG_NOSIGNAL);
}

/* A request is taken to be whole when it ends in an empty line; anything after it is the
 * subscribe. */
static void hear(int fd)
{
    char bytes[16384];
    ssize_t got = recv(fd, bytes, sizeof bytes, 0);

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        forget(fd);
    } else if (states[fd] == NEW && memmem(bytes, (size_t)got, "\r\n\r\n", 4)) {
        states[fd] = GREETED;
        answer(fd, UPGRADE, WELCOME);
    } else if (states[fd] == GREETED) {
        states[fd] = LIVE;
        sockets[live++] = fd;
        answer(fd, "", ACK);
    }
}

static void read_payload(const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file || fseek(file, 0, SEEK_END) || !(frame = malloc((size_t)ftell(file) + 16))) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    size = (size_t)ftell(file);
    rewind(file);
    payload_at = size < 126 ? 2 : size < 65536 ? 4 : 10;
    frame[0] = 0x81;
    frame[1] = (uint8_t)(payload_at == 2 ? size : payload_at == 4 ? 126 : 127);
    for (size_t i = 2; i < payload_at; i++)
        frame[i] = (uint8_t)((uint64_t)size >> 8 * (payload_at - 1 - i));
    if (fread(frame + payload_at, 1, size, file) != size)
        exit(2);
    frame_size = payload_at + size;
    fclose(file);
}

static void put_digits(uint8_t *at, size_t width, uint64_t value)
{
    while (width--) {
        at[width] = (uint8_t)('0' + value % 10);
        value /= 10;
    }
}

static uint8_t *next(uint8_t *from, const char *name)
{
    size_t left = frame_size - (size_t)(from - frame);
    uint8_t *found = memmem(from, left, name, strlen(name));
    return found ? found + strlen(name) : NULL;
}

static void rewrite(void)
{
    uint64_t stamp = clock_ns(CLOCK_MONOTONIC);
    uint8_t *p = frame + payload_at;
    uint64_t n = number;

    while ((p = next(p, "\"x_load\":\""))) {
        uint8_t *digits = p;
        put_digits(p, 10, ++n);
        put_digits(p + 11, 19, stamp);
        for (p += 31; *p != '"'; p++)
            *p = digits[(size_t)(p - digits - 31) % 10];
    }
    p = frame + payload_at;
    while ((p = next(p, "\"_seq\":\""))) {
        size_t width = 0;
        while (p[width] != '"')
            width++;
        put_digits(p, width, ++number);
    }
}

static void send_whole(int fd)
{
    size_t sent = 0;

    while (sent < frame_size) {
        ssize_t took = send(fd, frame + sent, frame_size - sent, MSG_NOSIGNAL);
        struct pollfd wait = {fd, POLLOUT, 0};
        if (took > 0) {
            sent += (size_t)took;
        } else if (errno == EAGAIN) {
            blocked++;
            poll(&wait, 1, 1000);
        } else {
            return; /* the client is gone; its own count will tell */
        }
    }
}

static void send_all(unsigned long messages, unsigned long interval_us)
{
    uint64_t cpu = 0, sends = 0, begun = clock_ns(CLOCK_MONOTONIC), next_at = begun, first = number;

    blocked = 0;
    for (unsigned long k = 0; k < messages; k++) {
        struct timespec until;
        uint64_t before;
        next_at += k ? interval_us * 1000 : 0;
        until.tv_sec = (time_t)(next_at / 1000000000u);
        until.tv_nsec = (long)(next_at % 1000000000u);
        if (k && interval_us)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        rewrite();
        before = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        for (size_t i = 0; i < live; i++)
            send_whole(sockets[i]);
        cpu += clock_ns(CLOCK_PROCESS_CPUTIME_ID) - before;
        sends += live;
    }
    printf("{\"event\":\"sent\",\"sends\":%llu,\"blocked\":%llu,\"cpu_ns\":%llu,\"wall_ns\":%llu,"
           "\"first_n\":%llu,\"last_n\":%llu,\"bytes\":%zu}\n",
           (unsigned long long)sends, (unsigned long long)blocked, (unsigned long long)cpu,
           (unsigned long long)(clock_ns(CLOCK_MONOTONIC) - begun),
           (unsigned long long)first + 1, (unsigned long long)number, frame_size);
    fflush(stdout);
}

static void command(void)
{
    static char line[256];
    unsigned long messages, interval;

    if (!fgets(line, sizeof line, stdin) || !strcmp(line, "quit\n"))
        quitting = 1;
    else if (sscanf(line, "send %lu %lu", &messages, &interval) == 2)
        send_all(messages, interval);
}

static void start(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    setvbuf(stdin, NULL, _IONBF, 0); /* what stdio has read, epoll cannot see */
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)
        || getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("listen");
        exit(2);
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(listener);
    watch(STDIN_FILENO);
    printf("{\"event\":\"listening\",\"port\":%d}\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];

    if (argc != 2) {
        fprintf(stderr, "usage: floor PAYLOAD-FILE\n");
        return 2;
    }
    read_payload(argv[1]);
    start();
    while (!quitting) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == STDIN_FILENO)
                command();
            else if (events[i].data.fd == listener)
                accept_all();
            else
                hear(events[i].data.fd);
        }
    }
    return 0;
}
