/* Makes system calls fail with EIO, as a disk that breaks does. Loaded by LD_PRELOAD.
 *
 *   EIO_CALLS  which of "write pwrite fsync posix_fallocate", separated by blanks
 *   EIO_PATH   they fail on files whose path has this in it
 *   EIO_FROM   from so many such calls on, in each process; the first is 1
 *   EIO_WHILE  only while this file exists; calls before it does are not counted
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long seen;

static int fails(const char *call, int fd) {
    const char *calls = getenv("EIO_CALLS"), *part = getenv("EIO_PATH");
    const char *from = getenv("EIO_FROM"), *whilst = getenv("EIO_WHILE");
    if (!calls || !part || !from || !whilst)
        return 0;
    char name[64], list[256], link[64], path[4096];
    snprintf(name, sizeof name, " %s ", call);
    snprintf(list, sizeof list, " %s ", calls);
    if (!strstr(list, name))
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    int failing = strstr(path, part) && access(whilst, F_OK) == 0
                  && atomic_fetch_add(&seen, 1) + 1 >= atol(from);
    errno = failing ? EIO : before;
    return failing;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    return fails("write", fd) ? -1 : REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return fails("pwrite", fd) ? -1 : REAL(pwrite)(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return fails("pwrite", fd) ? -1 : REAL(pwrite64)(fd, data, size, offset);
}

int fsync(int fd) {
    return fails("fsync", fd) ? -1 : REAL(fsync)(fd);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    return fails("posix_fallocate", fd) ? EIO : REAL(posix_fallocate)(fd, offset, size);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    return fails("posix_fallocate", fd) ? EIO : REAL(posix_fallocate64)(fd, offset, size);
}
