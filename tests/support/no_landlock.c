/* A kernel without Landlock for tests, to be preloaded: the system calls that make rules are refused
 * as an old kernel would. All others are libc's. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>

typedef long (*caller)(long, long, long, long, long, long, long);

long syscall(long number, long a, long b, long c, long d, long e, long f) {
  static caller libc;
  if (number == SYS_landlock_create_ruleset) {
    errno = ENOSYS;
    return -1;
  }
  if (libc == 0) libc = (caller)dlsym(RTLD_NEXT, "syscall");
  return libc(number, a, b, c, d, e, f);
}
