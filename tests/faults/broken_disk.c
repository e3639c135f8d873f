/* A disk that breaks on demand: preloaded into a process, it counts the file operations below one folder, writes each
 * into a journal, and lets one of them fail. Whoever writes a file (Python, PyTorch's C++, a tokenizer's library) goes
 * through here. Armed from Python, see broken_disk.py; until then it does nothing.
 *
 *     cc -shared -fPIC -O1 -o broken_disk.so broken_disk.c -ldl -pthread
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { MKDIR, CREATE, WRITE, TRUNCATE, FSYNC, RENAME, UNLINK, RMDIR, OPEN, READ, KINDS };
enum fault { NONE, KILL_BEFORE, KILL_AFTER, NO_SPACE, IO_ERROR, HALF_THEN_ERROR, HALF_SAID, HALF_UNSAID };

static const char *const names[KINDS] = {
    "mkdir", "create", "write", "truncate", "fsync", "rename", "unlink", "rmdir", "open", "read"};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], side[PATH_MAX];
static size_t folder_length;
static int armed, journal, broken_kind, broken_fault, links;
static long broken_at, counts[KINDS];
static char full_file[PATH_MAX]; /* after HALF_THEN_ERROR nothing more can be written to it */

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* From here on, the call number `at` of `kind` below `below` meets `fault`. Replaced and removed files are kept by a
 * hard link in `keep_in`, so that a power cut can be played that forgets the replacement. */
void broken_disk_arm(const char *below, const char *keep_in, int kind, long at, int fault, int journal_file) {
    pthread_mutex_lock(&lock);
    snprintf(folder, sizeof folder, "%s/", below);
    snprintf(side, sizeof side, "%s", keep_in);
    folder_length = strlen(folder);
    memset(counts, 0, sizeof counts);
    full_file[0] = 0;
    broken_kind = kind, broken_at = at, broken_fault = fault, journal = journal_file, links = 0;
    armed = 1;
    pthread_mutex_unlock(&lock);
}

void broken_disk_disarm(void) { armed = 0; }

static int below(const char *path) {
    return !strncmp(path, folder, folder_length) || (strlen(path) == folder_length - 1 && !strncmp(path, folder, folder_length - 1));
}

static int path_of_descriptor(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int path_of_name(int directory, const char *name, char *path) {
    if (!name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return below(path);
    }
    char start[PATH_MAX];
    if (directory == AT_FDCWD) {
        if (!getcwd(start, sizeof start)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, start, sizeof start - 1);
        if (length < 0) return 0;
        start[length] = 0;
    }
    if (snprintf(path, PATH_MAX, "%s/%s", start, name) >= PATH_MAX) return 0;
    return below(path);
}

static void note(const char *what, int kind, const char *path, const char *other, const char *kept) {
    char line[4 * PATH_MAX];
    int kept_errno = errno;
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%s\t%s\n", what, names[kind], path, other, kept);
    syscall(SYS_write, journal, line, length);
    errno = kept_errno;
}

/* Counts the call; says which fault it meets. */
static int meets(int kind, const char *path) {
    pthread_mutex_lock(&lock);
    int here = ++counts[kind] == broken_at && kind == broken_kind ? broken_fault : NONE;
    pthread_mutex_unlock(&lock);
    if (here != NONE) note("broken", kind, path, "", "");
    if (here == KILL_BEFORE) _exit(9);
    return here;
}

static int fails(int fault) {
    if (fault != NO_SPACE && fault != IO_ERROR) return 0;
    errno = fault == NO_SPACE ? ENOSPC : EIO;
    return 1;
}

static void done(int fault, int kind, int well, const char *path, const char *other, const char *kept) {
    if (well) note("done", kind, path, other, kept);
    if (fault == KILL_AFTER) _exit(9);
}

/* A second name for what is about to be replaced or removed. */
static const char *keep(int directory, const char *name, char *kept) {
    kept[0] = 0;
    struct stat about;
    if (!side[0] || fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) || !S_ISREG(about.st_mode)) return kept;
    pthread_mutex_lock(&lock);
    int number = ++links;
    pthread_mutex_unlock(&lock);
    int kept_errno = errno;
    snprintf(kept, PATH_MAX, "%.4000s/%d", side, number);
    if (linkat(directory, name, AT_FDCWD, kept, 0)) kept[0] = 0;
    errno = kept_errno;
    return kept;
}

/* ---- names ---- */

#define NAMED(kind, directory, name, call) \
    char path[PATH_MAX]; \
    if (!armed || !path_of_name(directory, name, path)) return call; \
    int fault = meets(kind, path); \
    if (fails(fault)) return -1; \
    int result = call; \
    done(fault, kind, result >= 0, path, "", ""); \
    return result

int mkdir(const char *name, mode_t mode) { REAL(mkdir); NAMED(MKDIR, AT_FDCWD, name, real(name, mode)); }
int mkdirat(int at, const char *name, mode_t mode) { REAL(mkdirat); NAMED(MKDIR, at, name, real(at, name, mode)); }
int rmdir(const char *name) { REAL(rmdir); NAMED(RMDIR, AT_FDCWD, name, real(name)); }

#define REMOVED(directory, name, call) \
    char path[PATH_MAX], kept[PATH_MAX]; \
    if (!armed || !path_of_name(directory, name, path)) return call; \
    int fault = meets(UNLINK, path); \
    if (fails(fault)) return -1; \
    keep(directory, name, kept); \
    int result = call; \
    done(fault, UNLINK, result == 0, path, "", kept); \
    return result

int unlink(const char *name) { REAL(unlink); REMOVED(AT_FDCWD, name, real(name)); }

int unlinkat(int at, const char *name, int flags) {
    REAL(unlinkat);
    if (flags & AT_REMOVEDIR) { NAMED(RMDIR, at, name, real(at, name, flags)); }
    REMOVED(at, name, real(at, name, flags));
}

static int renamed(int old_at, const char *old, int new_at, const char *new, unsigned flags) {
    char path[PATH_MAX], to[PATH_MAX], kept[PATH_MAX];
    if (!armed || !path_of_name(old_at, old, path) || !path_of_name(new_at, new, to))
        return syscall(SYS_renameat2, old_at, old, new_at, new, flags);
    int fault = meets(RENAME, path);
    if (fails(fault)) return -1;
    keep(new_at, new, kept);
    int result = syscall(SYS_renameat2, old_at, old, new_at, new, flags);
    done(fault, RENAME, result == 0, path, to, kept);
    return result;
}

int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int old_at, const char *old, int new_at, const char *new) { return renamed(old_at, old, new_at, new, 0); }
int renameat2(int old_at, const char *old, int new_at, const char *new, unsigned flags) {
    return renamed(old_at, old, new_at, new, flags);
}

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!armed || !path_of_name(at, name, path)) return syscall(SYS_openat, at, name, flags, mode);
    struct stat about;
    int there = !fstatat(at, name, &about, 0);
    int makes = flags & O_TRUNC || (flags & O_CREAT && !there);
    int fault = meets(makes ? CREATE : OPEN, path);
    if (fails(fault)) return -1;
    int result = syscall(SYS_openat, at, name, flags, mode);
    done(fault, makes ? CREATE : OPEN, result >= 0, path, makes && there ? "emptied" : "", "");
    return result;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }

#define STREAM(name, how, call) \
    char path[PATH_MAX]; \
    if (!armed || !path_of_name(AT_FDCWD, name, path)) return call; \
    struct stat about; \
    int there = !stat(name, &about), makes = how[0] == 'w' || (how[0] == 'a' && !there); \
    int fault = meets(makes ? CREATE : OPEN, path); \
    if (fails(fault)) return NULL; \
    FILE *result = call; \
    done(fault, makes ? CREATE : OPEN, result != NULL, path, makes && there ? "emptied" : "", ""); \
    return result

FILE *fopen(const char *name, const char *how) { REAL(fopen); STREAM(name, how, real(name, how)); }
FILE *fopen64(const char *name, const char *how) { REAL(fopen64); STREAM(name, how, real(name, how)); }

/* ---- contents ---- */

#define SYNCED(file, call) \
    char path[PATH_MAX]; \
    if (!armed || !path_of_descriptor(file, path)) return call; \
    int fault = meets(FSYNC, path); \
    if (fails(fault)) return -1; \
    int result = call; \
    done(fault, FSYNC, result == 0, path, "", ""); \
    return result

int fsync(int file) { REAL(fsync); SYNCED(file, real(file)); }
int fdatasync(int file) { REAL(fdatasync); SYNCED(file, real(file)); }

#define CUT(file, call) \
    char path[PATH_MAX]; \
    if (!armed || !path_of_descriptor(file, path)) return call; \
    int fault = meets(TRUNCATE, path); \
    if (fails(fault)) return -1; \
    int result = call; \
    done(fault, TRUNCATE, result == 0, path, "", ""); \
    return result

int ftruncate(int file, off_t size) { REAL(ftruncate); CUT(file, real(file, size)); }
int ftruncate64(int file, off64_t size) { REAL(ftruncate64); CUT(file, real(file, size)); }

/* One write of these bytes; at offset -1 where the file stands. */
static ssize_t put(int file, const void *data, size_t size, off64_t offset) {
    return offset < 0 ? syscall(SYS_write, file, data, size) : syscall(SYS_pwrite64, file, data, size, offset);
}

static ssize_t written(int file, const void *data, size_t size, off64_t offset) {
    char path[PATH_MAX];
    if (!armed || file == journal || !path_of_descriptor(file, path)) return put(file, data, size, offset);
    int fault = meets(WRITE, path);
    if (fails(fault)) return -1;
    if (full_file[0] && !strcmp(full_file, path)) {
        errno = ENOSPC;
        return -1;
    }
    int halves = fault == HALF_THEN_ERROR || fault == HALF_SAID || fault == HALF_UNSAID;
    ssize_t result = put(file, data, halves ? size / 2 : size, offset);
    if (fault == HALF_THEN_ERROR) strcpy(full_file, path);
    if (fault == HALF_UNSAID && result >= 0) {
        if (offset < 0) lseek64(file, size - size / 2, SEEK_CUR); /* a hole, or what was there before */
        result = size;
    }
    if (halves && fault != HALF_UNSAID && size == 1) {
        errno = ENOSPC; /* half of a byte */
        result = -1;
    }
    done(fault, WRITE, result >= 0, path, "", "");
    return result;
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return written(file, data, size, offset); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) { return written(file, data, size, offset); }

/* Piece by piece: who gathers pieces has to go on after a short write, too. */
ssize_t writev(int file, const struct iovec *pieces, int number) {
    char path[PATH_MAX];
    if (!armed || !path_of_descriptor(file, path)) return syscall(SYS_writev, file, pieces, number);
    ssize_t all = 0;
    for (int i = 0; i < number; i++) {
        if (!pieces[i].iov_len) continue;
        ssize_t result = written(file, pieces[i].iov_base, pieces[i].iov_len, -1);
        if (result < 0) return all ? all : -1;
        all += result;
        if ((size_t)result < pieces[i].iov_len) break;
    }
    return all;
}

#define GOT(file, size, call, half) \
    char path[PATH_MAX]; \
    if (!armed || !path_of_descriptor(file, path)) return call; \
    int fault = meets(READ, path); \
    if (fails(fault)) return -1; \
    note("done", READ, path, "", ""); \
    if (fault == HALF_SAID && (size) > 1) return half; \
    return call

ssize_t read(int file, void *data, size_t size) {
    GOT(file, size, syscall(SYS_read, file, data, size), syscall(SYS_read, file, data, size / 2));
}
ssize_t pread(int file, void *data, size_t size, off_t at) {
    GOT(file, size, syscall(SYS_pread64, file, data, size, at), syscall(SYS_pread64, file, data, size / 2, at));
}
ssize_t pread64(int file, void *data, size_t size, off64_t at) {
    GOT(file, size, syscall(SYS_pread64, file, data, size, at), syscall(SYS_pread64, file, data, size / 2, at));
}

#define FIRST_HALF syscall(SYS_pread64, file, pieces[0].iov_base, pieces[0].iov_len / 2, at)
ssize_t preadv(int file, const struct iovec *pieces, int number, off_t at) {
    REAL(preadv);
    GOT(file, pieces[0].iov_len, real(file, pieces, number, at), FIRST_HALF);
}
ssize_t preadv64(int file, const struct iovec *pieces, int number, off64_t at) {
    REAL(preadv64);
    GOT(file, pieces[0].iov_len, real(file, pieces, number, at), FIRST_HALF);
}
ssize_t preadv2(int file, const struct iovec *pieces, int number, off_t at, int flags) {
    REAL(preadv2);
    GOT(file, pieces[0].iov_len, real(file, pieces, number, at, flags), FIRST_HALF);
}
ssize_t preadv64v2(int file, const struct iovec *pieces, int number, off64_t at, int flags) {
    REAL(preadv64v2);
    GOT(file, pieces[0].iov_len, real(file, pieces, number, at, flags), FIRST_HALF);
}
