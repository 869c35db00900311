/* Makes system calls fail, for tests/faults/campaign.py: gcc -shared -fPIC -o shim.so shim.c -ldl, then LD_PRELOAD.

   What a process reads in its environment:
   SHIM_FOLDER  only calls on paths below it count; unset: the shim does nothing
   SHIM_CALL    the number of the call, from 1, at which something happens; 0: never
   SHIM_DO      errno:N   that call fails with errno N
                lasts:N   it, and every later one that writes, fails with errno N
                signal:N  this process gets signal N, SIGKILL in the middle of a write
                clock:S   from then on the wall clock is S seconds off; with SHIM_CALL=0 from the start
   SHIM_TRACE   a file to which the name of each counted call is written */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;
static atomic_int lasting;  /* the errno of a disk that refuses from now on */
static atomic_long clock_offset;

/* The function that this one stands before. */
static void *real(const char *name, void **known) {
    if (*known == NULL) *known = dlsym(RTLD_NEXT, name);
    return *known;
}
#define REAL(name) ((__typeof__(&name))real(#name, &real_##name))
static void *real_open, *real_open64, *real_openat, *real_openat64, *real_write, *real_read, *real_fsync;
static void *real_ftruncate64, *real_rename, *real_renameat, *real_mkdir, *real_unlink, *real_unlinkat, *real_pwrite64;
static void *real_clock_gettime;

static int below(int folder_fd, const char *path, int fd) {
    const char *folder = getenv("SHIM_FOLDER");
    char link[64], base[PATH_MAX] = "", whole[2 * PATH_MAX];
    if (folder == NULL) return 0;
    const char *what = getenv("SHIM_DO"), *at = getenv("SHIM_CALL");
    if (what != NULL && what[0] == 'c' && at != NULL && atol(at) == 0) clock_offset = atol(what + strlen("clock:"));
    if (path == NULL || (path[0] != '/' && folder_fd != AT_FDCWD)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", path == NULL ? fd : folder_fd);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    else if (strncmp(path, "/proc/self/fd/", strlen("/proc/self/fd/")) == 0) {  /* a folder that is held open */
        char *rest = NULL;
        snprintf(link, sizeof link, "/proc/self/fd/%ld", strtol(path + strlen("/proc/self/fd/"), &rest, 10));
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        path = *rest == '/' ? rest + 1 : NULL;
    }
    snprintf(whole, sizeof whole, "%s%s%s", base, base[0] && path ? "/" : "", path ? path : "");
    return strncmp(whole, folder, strlen(folder)) == 0;
}

/* Counts a call; returns the errno with which it is to fail, 0: it goes on. */
static int counted(const char *name, int writes, int fd, const void *data, size_t length) {
    const char *at = getenv("SHIM_CALL"), *what = getenv("SHIM_DO"), *trace = getenv("SHIM_TRACE");
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (trace != NULL) {
        int file = REAL(open)(trace, O_WRONLY | O_APPEND | O_CREAT, 0666);
        dprintf(file, "%s\n", name);
        close(file);
    }
    if (lasting && writes) return lasting;
    if (at == NULL || what == NULL || number != atol(at)) return 0;
    int value = atoi(strchr(what, ':') + 1);
    if (what[0] == 'e') return value;
    if (what[0] == 'l') {
        lasting = value;
        return writes ? value : 0;
    }
    if (what[0] == 'c') clock_offset = value;
    if (what[0] == 's') {
        if (value == SIGKILL && data != NULL) REAL(write)(fd, data, length / 2);
        kill(getpid(), value);
    }
    return 0;
}

#define CHECK(folder_fd, path, fd, name, writes, data, length) \
    if (below(folder_fd, path, fd)) { \
        int refused = counted(name, writes, fd, data, length); \
        if (refused) { errno = refused; return -1; } \
    }

#define OPEN(name, first, folder_fd, ...) \
    int name(first const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        CHECK(folder_fd, path, -1, "open", flags & O_CREAT, NULL, 0) \
        return REAL(name)(__VA_ARGS__ path, flags, mode); \
    }
#define NOTHING
#define FOLDER int folder,
OPEN(open, NOTHING, AT_FDCWD)
OPEN(open64, NOTHING, AT_FDCWD)
OPEN(openat, FOLDER, folder, folder,)
OPEN(openat64, FOLDER, folder, folder,)

ssize_t write(int fd, const void *data, size_t length) {
    CHECK(0, NULL, fd, "write", 1, data, length)
    return REAL(write)(fd, data, length);
}
ssize_t read(int fd, void *data, size_t length) {
    CHECK(0, NULL, fd, "read", 0, NULL, 0)
    return REAL(read)(fd, data, length);
}
int fsync(int fd) {
    CHECK(0, NULL, fd, "fsync", 1, NULL, 0)
    return REAL(fsync)(fd);
}
int ftruncate64(int fd, off64_t length) {
    CHECK(0, NULL, fd, "ftruncate", 1, NULL, 0)
    return REAL(ftruncate64)(fd, length);
}
int rename(const char *from, const char *to) {
    CHECK(AT_FDCWD, to, -1, "rename", 1, NULL, 0)
    return REAL(rename)(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    CHECK(to_folder, to, -1, "rename", 1, NULL, 0)
    return REAL(renameat)(from_folder, from, to_folder, to);
}
int mkdir(const char *path, mode_t mode) {
    CHECK(AT_FDCWD, path, -1, "mkdir", 1, NULL, 0)
    return REAL(mkdir)(path, mode);
}
int unlink(const char *path) {
    CHECK(AT_FDCWD, path, -1, "unlink", 1, NULL, 0)
    return REAL(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
    CHECK(folder, path, -1, "unlink", 1, NULL, 0)
    return REAL(unlinkat)(folder, path, flags);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    CHECK(0, NULL, fd, "write", 1, NULL, 0)
    return REAL(pwrite64)(fd, data, length, offset);
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int result = REAL(clock_gettime)(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += clock_offset;
    return result;
}
