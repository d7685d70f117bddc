/* A disk that errs, for one directory of one program: preloaded, it stands before the C library.
 *
 * BROKEN_DISK_DIR is the directory, BROKEN_DISK_ORDERS a file of whoever gives the orders, mapped by
 * both sides. Only regular files below the directory are concerned. Without an order all goes through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The errno that a kind of call gets (0: none), whether fsyncs hang, and how many calls were hit. */
struct orders {
    volatile int32_t on_read, on_write, on_sync, on_open, hang;
    volatile int32_t hits;
};

static struct orders *orders;
static char directory[4096];
static size_t length;

__attribute__((constructor)) static void begin(void) {
    const char *named = getenv("BROKEN_DISK_DIR"), *file = getenv("BROKEN_DISK_ORDERS");
    if (named == NULL || file == NULL || realpath(named, directory) == NULL) return;
    length = strlen(directory);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) orders = mapped;
    close(fd);
}

static int is_below(const char *path) {
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

static int concerns(int fd) {
    struct stat found;
    char link[64], path[4096];
    if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

/* Whether this call is to fail; errno says how. */
static int fails(int32_t ordered, int fd) {
    if (ordered == 0 || !concerns(fd)) return 0;
    __sync_fetch_and_add(&orders->hits, 1);
    errno = ordered;
    return 1;
}

#define ORDER(kind) (orders ? orders->kind : 0)
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t read(int fd, void *buffer, size_t count) {
    if (fails(ORDER(on_read), fd)) return -1;
    return NEXT(read)(fd, buffer, count);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset) {
    if (fails(ORDER(on_read), fd)) return -1;
    return NEXT(pread)(fd, buffer, count, offset);
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset) {
    if (fails(ORDER(on_read), fd)) return -1;
    return NEXT(pread64)(fd, buffer, count, offset);
}

ssize_t write(int fd, const void *buffer, size_t count) {
    if (fails(ORDER(on_write), fd)) return -1;
    return NEXT(write)(fd, buffer, count);
}

ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) {
    if (fails(ORDER(on_write), fd)) return -1;
    return NEXT(pwrite)(fd, buffer, count, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset) {
    if (fails(ORDER(on_write), fd)) return -1;
    return NEXT(pwrite64)(fd, buffer, count, offset);
}

static int sync_fails(int fd) {
    while (ORDER(hang) && concerns(fd)) {
        __sync_fetch_and_add(&orders->hits, 1);
        usleep(10000);
    }
    return fails(ORDER(on_sync), fd);
}

int fsync(int fd) { return sync_fails(fd) ? -1 : NEXT(fsync)(fd); }

int fdatasync(int fd) { return sync_fails(fd) ? -1 : NEXT(fdatasync)(fd); }

static int open_fails(const char *path, int flags) {
    char whole[4096];
    const int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    if (ORDER(on_open) == 0 || !writes || realpath(path, whole) == NULL || !is_below(whole)) return 0;
    struct stat found;
    if (stat(whole, &found) != 0 || !S_ISREG(found.st_mode)) return 0;
    __sync_fetch_and_add(&orders->hits, 1);
    errno = orders->on_open;
    return 1;
}

#define MODE(flags)                                  \
    mode_t mode = 0;                                 \
    if ((flags) & (O_CREAT | O_TMPFILE)) {           \
        va_list more;                                \
        va_start(more, flags);                       \
        mode = va_arg(more, mode_t);                 \
        va_end(more);                                \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_fails(path, flags) ? -1 : NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_fails(path, flags) ? -1 : NEXT(open64)(path, flags, mode);
}
