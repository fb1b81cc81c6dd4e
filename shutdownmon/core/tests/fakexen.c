/*
 * What a xenstored asks of Xen, for one that runs where no Xen is: preloaded, it makes an unmodified xenstored believe that it
 * runs in dom0. No event channel ever fires and no other domain's page can be mapped: clients come by the socket.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int handle;
static int ends[2] = { -1, -1 };

void *xenevtchn_open(void *logger, unsigned flags) { (void)logger; (void)flags; return pipe(ends) ? NULL : &handle; }
void *xenevtchn_fdopen(void *logger, int fd, unsigned flags) { (void)fd; return xenevtchn_open(logger, flags); }
int xenevtchn_fd(void *evtchn) { (void)evtchn; return ends[0]; }
int xenevtchn_bind_virq(void *evtchn, unsigned virq) { (void)evtchn; return 64 + (int)virq; }
int xenevtchn_bind_interdomain(void *evtchn, uint32_t domain, unsigned port) { (void)evtchn; (void)domain; return (int)port; }
int xenevtchn_notify(void *evtchn, unsigned port) { (void)evtchn; (void)port; return 0; }
int xenevtchn_unmask(void *evtchn, unsigned port) { (void)evtchn; (void)port; return 0; }
int xenevtchn_unbind(void *evtchn, unsigned port) { (void)evtchn; (void)port; return 0; }
int xenevtchn_pending(void *evtchn) { (void)evtchn; errno = EAGAIN; return -1; }

void *xengnttab_open(void *logger, unsigned flags) { (void)logger; (void)flags; return &handle; }
int xengnttab_close(void *table) { (void)table; return 0; }
int xengnttab_set_max_grants(void *table, uint32_t most) { (void)table; (void)most; return 0; }
void *xengnttab_map_grant_ref(void *table, uint32_t domain, uint32_t reference, int protection)
{
    (void)table; (void)domain; (void)reference; (void)protection;
    errno = EINVAL;
    return NULL;
}
int xengnttab_unmap(void *table, void *address, uint32_t pages) { (void)table; (void)address; (void)pages; return 0; }

void *xc_interface_open(void *logger, void *other, unsigned flags) { (void)logger; (void)other; (void)flags; return &handle; }
int xc_interface_close(void *interface) { (void)interface; return 0; }
/* No domain but dom0 is there: the answer is "none found". */
int xc_domain_getinfo(void *interface, uint32_t first, unsigned most, void *info)
{
    (void)interface; (void)first; (void)most; (void)info;
    return 0;
}

/* dom0's ring: a page of zeroes in a file, and the number of its event channel. */
static int stand_in(const char *path, int *fd)
{
    int is_port = !strcmp(path, "/proc/xen/xsd_port") || !strcmp(path, "/dev/xen/xsd_port");
    int is_page = !strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva");
    char name[] = "/tmp/fakexen-XXXXXX";

    if (!is_port && !is_page)
        return 0;
    *fd = mkstemp(name);
    if (*fd >= 0) {
        unlink(name);
        if (is_port ? write(*fd, "1", 1) != 1 || lseek(*fd, 0, SEEK_SET) : ftruncate(*fd, 4096)) {
            close(*fd);
            *fd = -1;
        }
    }
    return 1;
}

#define OPEN(function)                                                                                                  \
    int function(const char *path, int flags, ...)                                                                      \
    {                                                                                                                   \
        static int (*real)(const char *, int, ...);                                                                     \
        va_list rest;                                                                                                   \
        int mode, fd;                                                                                                   \
                                                                                                                        \
        va_start(rest, flags);                                                                                          \
        mode = flags & O_CREAT ? va_arg(rest, int) : 0;                                                                 \
        va_end(rest);                                                                                                   \
        if (stand_in(path, &fd))                                                                                        \
            return fd;                                                                                                  \
        if (!real)                                                                                                      \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #function);                                        \
        return real(path, flags, mode);                                                                                 \
    }

OPEN(open)
OPEN(open64)
