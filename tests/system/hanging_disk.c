/* Preloaded into a daemon: writing to a file with an offset, as SQLite does, hangs while the file exists that HANGING_DISK
 * names, but for a minute at most. What has a file of its own, such as the log and sockets, is written otherwise. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_disk(void) {
    const char *file = getenv("HANGING_DISK");
    for (int tries = 0; file && access(file, F_OK) == 0 && tries < 6000; tries++)
        usleep(10000);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off_t at) {
    wait_for_disk();
    return syscall(SYS_pwrite64, file, bytes, size, at);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    return pwrite64(file, bytes, size, at);
}

int fdatasync(int file) {
    wait_for_disk();
    return syscall(SYS_fdatasync, file);
}

int ftruncate64(int file, off_t size) {
    wait_for_disk();
    return syscall(SYS_ftruncate, file, size);
}

int ftruncate(int file, off_t size) {
    return ftruncate64(file, size);
}
