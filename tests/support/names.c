/* A resolver for tests, to be preloaded: the name worker.test stands for the addresses in the file
 * that NAMES_FILE names, one a line, as they are at each question. All else is asked of libc. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  resolver libc = (resolver)dlsym(RTLD_NEXT, "getaddrinfo");
  if (name == NULL || strcmp(name, "worker.test") != 0) return libc(name, service, hints, found);
  const char *path = getenv("NAMES_FILE");
  FILE *file = path ? fopen(path, "r") : NULL;
  if (file == NULL) return EAI_FAIL;
  char line[64];
  struct addrinfo **first = found;
  *found = NULL;
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    if (libc(line, service, hints, found) == 0) {
      while (*found) found = &(*found)->ai_next;
    }
  }
  fclose(file);
  return *first ? 0 : EAI_NONAME;
}
