/* Journals what a process does to the files under one folder, in order, so that a test can build
 * the folder as a loss of power would have left it. Loaded with LD_PRELOAD.
 *
 *   POWERLOSS_ROOT     the folder, absolute, without symbolic links
 *   POWERLOSS_JOURNAL  the journal, outside of it; appended to
 *   POWERLOSS_ACK      optional file; what is written to it is journalled as an acknowledgement
 *   POWERLOSS_KILL_AT  optional number of records after which the process is killed, between calls
 *   POWERLOSS_SOCKETS  if set, so is the start of what is sent on sockets
 *
 * Files are known by inode, names by path. One mutex orders everything. Calls that could change a
 * file unseen are journalled as unsupported and fail the test.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    OPEN = 1, WRITE, TRUNCATE, SYNC, SYNC_DIR, RENAME, UNLINK, LINK, MKDIR, RMDIR, ACK, SENT,
    UNSUPPORTED
};

#pragma pack(push, 1)
struct record {
    uint8_t kind, flag;
    uint16_t path_len;
    uint32_t data_len;
    uint64_t inode, offset;
};
#pragma pack(pop)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static char ack_path[PATH_MAX];
static size_t root_len;
static dev_t root_dev;
static ino_t ack_inode;
static dev_t ack_dev;
static int journal = -1;
static int sockets;
static uint64_t records, kill_at;
/* Inodes that have had a name under the root: a set by open addressing. */
static ino_t known[1 << 16];

#define REAL(ret, name, ...)                                         \
    static ret (*real_##name)(__VA_ARGS__);                          \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

static void die(const char *why) {
    fprintf(stderr, "powerloss shim: %s\n", why);
    abort();
}

static void put(const void *bytes, size_t len) {
    REAL(ssize_t, write, int, const void *, size_t);
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = real_write(journal, at, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) die("cannot write the journal");
        at += n;
        len -= (size_t)n;
    }
}

static void note(int kind, int flag, ino_t inode, uint64_t offset, const char *path,
                 const void *data, size_t data_len) {
    int saved = errno;
    size_t path_len = path ? strlen(path) : 0;
    struct record r = {(uint8_t)kind, (uint8_t)flag, (uint16_t)path_len, (uint32_t)data_len,
                       (uint64_t)inode, offset};
    put(&r, sizeof r);
    put(path, path_len);
    put(data, data_len);
    /* The caller holds the mutex: no other call is half journalled. */
    if (++records == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = saved;
}

__attribute__((constructor)) static void start(void) {
    const char *r = getenv("POWERLOSS_ROOT"), *j = getenv("POWERLOSS_JOURNAL");
    if (!r || !j) return;
    struct stat st;
    if (stat(r, &st) != 0) die("no root");
    REAL(int, open, const char *, int, ...);
    int fd = real_open(j, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) die("cannot open the journal");
    strncpy(root, r, sizeof root - 1);
    root_len = strlen(root);
    root_dev = st.st_dev;
    if (getenv("POWERLOSS_ACK")) strncpy(ack_path, getenv("POWERLOSS_ACK"), sizeof ack_path - 1);
    if (getenv("POWERLOSS_KILL_AT")) kill_at = strtoull(getenv("POWERLOSS_KILL_AT"), NULL, 10);
    sockets = getenv("POWERLOSS_SOCKETS") != NULL;
    journal = fd;
}

/* Absolute form of `path` relative to `dir`; lexical. */
static const char *absolute(int dir, const char *path, char out[PATH_MAX]) {
    if (!path) return NULL;
    if (path[0] == '/') return path;
    char base[PATH_MAX];
    if (dir == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return NULL;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return NULL;
        base[n] = 0;
    }
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
    return out;
}

/* The part of `path` below the root ("" for the root itself), or NULL. */
static const char *below(const char *path) {
    if (journal < 0 || !path || strncmp(path, root, root_len) != 0) return NULL;
    if (path[root_len] == 0) return path + root_len;
    return path[root_len] == '/' ? path + root_len + 1 : NULL;
}

static int is_known(ino_t inode, int add) {
    size_t mask = sizeof known / sizeof *known - 1;
    for (size_t i = (size_t)inode * 0x9E3779B1u & mask, n = 0; n < mask; i = (i + 1) & mask, n++) {
        if (known[i] == inode) return 1;
        if (known[i] == 0) {
            if (add) known[i] = inode;
            return 0;
        }
    }
    die("too many files");
    return 0;
}

/* 1: a file of ours, 2: the acknowledgement file, 3: a socket. */
static int what(int fd, struct stat *st) {
    if (journal < 0 || fd == journal || fstat(fd, st) != 0) return 0;
    if (S_ISSOCK(st->st_mode)) return sockets ? 3 : 0;
    if (!S_ISREG(st->st_mode)) return 0;
    if (ack_inode && st->st_ino == ack_inode && st->st_dev == ack_dev) return 2;
    return st->st_dev == root_dev && is_known(st->st_ino, 0);
}

static int open_common(int dir, const char *path, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    char buffer[PATH_MAX];
    const char *full = absolute(dir, path, buffer), *name = below(full);
    if (journal >= 0 && ack_path[0] && full && strcmp(full, ack_path) == 0) {
        int fd = real_openat(dir, path, flags, mode);
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0) ack_inode = st.st_ino, ack_dev = st.st_dev;
        return fd;
    }
    if (!name) return real_openat(dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat st;
    int existed = stat(full, &st) == 0;
    int fd = real_openat(dir, path, flags, mode);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        if ((flags & O_TMPFILE) == O_TMPFILE) note(UNSUPPORTED, 0, 0, 0, name, "O_TMPFILE", 9);
        is_known(st.st_ino, 1);
        note(OPEN, !existed, st.st_ino, 0, name, NULL, 0);
        if (existed && (flags & O_TRUNC)) note(TRUNCATE, 0, st.st_ino, 0, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN_BODY(dir)                                   \
    mode_t mode = 0;                                     \
    if (flags & (O_CREAT | __O_TMPFILE)) {               \
        va_list args;                                    \
        va_start(args, flags);                           \
        mode = va_arg(args, mode_t);                     \
        va_end(args);                                    \
    }                                                    \
    return open_common(dir, path, flags, mode)

int open(const char *path, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPEN_BODY(AT_FDCWD); }
int openat(int dir, const char *path, int flags, ...) { OPEN_BODY(dir); }
int openat64(int dir, const char *path, int flags, ...) { OPEN_BODY(dir); }
int creat(const char *path, mode_t mode) {
    return open_common(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* Start of what a write without an offset changes. */
static off_t position(int fd, const struct stat *st) {
    return fcntl(fd, F_GETFL) & O_APPEND ? st->st_size : lseek(fd, 0, SEEK_CUR);
}

#define LOCKED(kind, fd, st, plain, call)                 \
    struct stat st;                                       \
    int kind = what(fd, &st);                             \
    if (!kind) return plain;                              \
    pthread_mutex_lock(&lock);                            \
    fstat(fd, &st);                                       \
    call;                                                 \
    pthread_mutex_unlock(&lock)

static void wrote(int kind, const struct stat *st, off_t at, const void *data, ssize_t n) {
    if (n <= 0) return;
    if (kind == 1) note(WRITE, 0, st->st_ino, (uint64_t)at, NULL, data, (size_t)n);
    if (kind == 2) note(ACK, 0, 0, 0, NULL, data, (size_t)n);
    if (kind == 3) note(SENT, 0, 0, 0, NULL, data, n < 4096 ? (size_t)n : 4096);
}

static void wrote_v(int kind, const struct stat *st, off_t at, const struct iovec *v, int count,
                    ssize_t n) {
    for (int i = 0; i < count && n > 0; i++) {
        ssize_t part = n < (ssize_t)v[i].iov_len ? n : (ssize_t)v[i].iov_len;
        wrote(kind, st, at, v[i].iov_base, part);
        at += part;
        n -= part;
    }
}

ssize_t write(int fd, const void *data, size_t len) {
    REAL(ssize_t, write, int, const void *, size_t);
    LOCKED(kind, fd, st, real_write(fd, data, len), {
        off_t at = kind == 1 ? position(fd, &st) : 0;
        ssize_t n = real_write(fd, data, len);
        wrote(kind, &st, at, data, n);
        pthread_mutex_unlock(&lock);
        return n;
    });
}

ssize_t writev(int fd, const struct iovec *v, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    LOCKED(kind, fd, st, real_writev(fd, v, count), {
        off_t at = kind == 1 ? position(fd, &st) : 0;
        ssize_t n = real_writev(fd, v, count);
        wrote_v(kind, &st, at, v, count, n);
        pthread_mutex_unlock(&lock);
        return n;
    });
}

#define PWRITE(name, off_type)                                            \
    ssize_t name(int fd, const void *data, size_t len, off_type at) {     \
        REAL(ssize_t, name, int, const void *, size_t, off_type);         \
        LOCKED(kind, fd, st, real_##name(fd, data, len, at), {            \
            ssize_t n = real_##name(fd, data, len, at);                   \
            wrote(kind, &st, at, data, n);                                \
            pthread_mutex_unlock(&lock);                                  \
            return n;                                                     \
        });                                                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, off_type)                                           \
    ssize_t name(int fd, const struct iovec *v, int count, off_type at) { \
        REAL(ssize_t, name, int, const struct iovec *, int, off_type);    \
        LOCKED(kind, fd, st, real_##name(fd, v, count, at), {             \
            ssize_t n = real_##name(fd, v, count, at);                    \
            wrote_v(kind, &st, at, v, count, n);                          \
            pthread_mutex_unlock(&lock);                                  \
            return n;                                                     \
        });                                                               \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

ssize_t send(int fd, const void *data, size_t len, int flags) {
    REAL(ssize_t, send, int, const void *, size_t, int);
    LOCKED(kind, fd, st, real_send(fd, data, len, flags), {
        ssize_t n = real_send(fd, data, len, flags);
        wrote(kind, &st, 0, data, n);
        pthread_mutex_unlock(&lock);
        return n;
    });
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    LOCKED(kind, fd, st, real_sendmsg(fd, m, flags), {
        ssize_t n = real_sendmsg(fd, m, flags);
        wrote_v(kind, &st, 0, m->msg_iov, (int)m->msg_iovlen, n);
        pthread_mutex_unlock(&lock);
        return n;
    });
}

#define FTRUNCATE(name, off_type)                                              \
    int name(int fd, off_type len) {                                           \
        REAL(int, name, int, off_type);                                        \
        LOCKED(kind, fd, st, real_##name(fd, len), {                           \
            int r = real_##name(fd, len);                                      \
            if (r == 0 && kind == 1)                                           \
                note(TRUNCATE, 0, st.st_ino, (uint64_t)len, NULL, NULL, 0);    \
            pthread_mutex_unlock(&lock);                                       \
            return r;                                                          \
        });                                                                    \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

static int sync_common(int fd, int (*sync)(int)) {
    struct stat st;
    if (journal < 0 || fstat(fd, &st) != 0 || st.st_dev != root_dev) return sync(fd);
    pthread_mutex_lock(&lock);
    int r = sync(fd);
    if (r == 0 && S_ISDIR(st.st_mode)) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof path - 1);
        path[n < 0 ? 0 : n] = 0;
        const char *name = below(path);
        if (name) note(SYNC_DIR, 0, 0, 0, name, NULL, 0);
    } else if (r == 0 && is_known(st.st_ino, 0)) {
        note(SYNC, 0, st.st_ino, 0, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return sync_common(fd, real_fsync);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return sync_common(fd, real_fdatasync);
}

/* A change of one name, or of two in one step. */
static int named(int kind, int dir, const char *path, int dir2, const char *path2, int r_if_ok,
                 int (*act)(int, const char *, int, const char *, int), int flags) {
    char a[PATH_MAX], b[PATH_MAX];
    const char *name = below(absolute(dir, path, a));
    const char *name2 = path2 ? below(absolute(dir2, path2, b)) : NULL;
    if (!name && !name2) return act(dir, path, dir2, path2, flags);
    pthread_mutex_lock(&lock);
    int r = act(dir, path, dir2, path2, flags);
    if (r == r_if_ok) {
        if (path2 && (!name || !name2)) note(UNSUPPORTED, 0, 0, 0, path, "move across root", 16);
        else note(kind, 0, 0, 0, name, name2, name2 ? strlen(name2) : 0);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

static int do_rename(int d, const char *p, int d2, const char *p2, int flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return real_renameat2(d, p, d2, p2, (unsigned)flags);
}
static int do_link(int d, const char *p, int d2, const char *p2, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return real_linkat(d, p, d2, p2, flags);
}
static int do_unlink(int d, const char *p, int d2, const char *p2, int flags) {
    (void)d2, (void)p2;
    REAL(int, unlinkat, int, const char *, int);
    return real_unlinkat(d, p, flags);
}
static int do_mkdir(int d, const char *p, int d2, const char *p2, int mode) {
    (void)d2, (void)p2;
    REAL(int, mkdirat, int, const char *, mode_t);
    return real_mkdirat(d, p, (mode_t)mode);
}

int renameat2(int d, const char *p, int d2, const char *p2, unsigned flags) {
    int kind = flags & ~RENAME_NOREPLACE ? UNSUPPORTED : RENAME;
    return named(kind, d, p, d2, p2, 0, do_rename, (int)flags);
}
int renameat(int d, const char *p, int d2, const char *p2) { return renameat2(d, p, d2, p2, 0); }
int rename(const char *p, const char *p2) { return renameat2(AT_FDCWD, p, AT_FDCWD, p2, 0); }
int linkat(int d, const char *p, int d2, const char *p2, int flags) {
    return named(LINK, d, p, d2, p2, 0, do_link, flags);
}
int link(const char *p, const char *p2) { return linkat(AT_FDCWD, p, AT_FDCWD, p2, 0); }
int unlinkat(int d, const char *p, int flags) {
    int kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
    return named(kind, d, p, AT_FDCWD, NULL, 0, do_unlink, flags);
}
int unlink(const char *p) { return unlinkat(AT_FDCWD, p, 0); }
int rmdir(const char *p) { return unlinkat(AT_FDCWD, p, AT_REMOVEDIR); }
int mkdirat(int d, const char *p, mode_t mode) {
    return named(MKDIR, d, p, AT_FDCWD, NULL, 0, do_mkdir, (int)mode);
}
int mkdir(const char *p, mode_t mode) { return mkdirat(AT_FDCWD, p, mode); }

/* Ways to change a file that are not modelled. */
static void refuse(int fd, const char *call) {
    struct stat st;
    if (what(fd, &st) != 1) return;
    pthread_mutex_lock(&lock);
    note(UNSUPPORTED, 0, st.st_ino, 0, NULL, call, strlen(call));
    pthread_mutex_unlock(&lock);
}

int fallocate(int fd, int mode, off_t at, off_t len) {
    REAL(int, fallocate, int, int, off_t, off_t);
    refuse(fd, "fallocate");
    return real_fallocate(fd, mode, at, len);
}
int posix_fallocate(int fd, off_t at, off_t len) {
    REAL(int, posix_fallocate, int, off_t, off_t);
    refuse(fd, "posix_fallocate");
    return real_posix_fallocate(fd, at, len);
}
ssize_t copy_file_range(int in, off64_t *at, int out, off64_t *at2, size_t len, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    refuse(out, "copy_file_range");
    return real_copy_file_range(in, at, out, at2, len, flags);
}

/* SQLite maps its shared-memory index, which it never trusts after a restart. */
static void mapped(int prot, int flags, int fd) {
    if (fd < 0 || !(prot & PROT_WRITE) || !(flags & MAP_SHARED) || journal < 0) return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 4 || memcmp(path + n - 4, "-shm", 4) != 0) refuse(fd, "mmap");
}
void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t at) {
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    mapped(prot, flags, fd);
    return real_mmap(addr, len, prot, flags, fd, at);
}
void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t at) {
    REAL(void *, mmap64, void *, size_t, int, int, int, off64_t);
    mapped(prot, flags, fd);
    return real_mmap64(addr, len, prot, flags, fd, at);
}
