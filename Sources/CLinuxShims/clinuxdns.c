#define _GNU_SOURCE
#include "clinuxshims.h"

#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>

int clinux_dns_services(const char *name, unsigned char *answer, int size) {
  // Read anew each time: the system's name services may have changed.
  struct __res_state state = {0};
  if (res_ninit(&state) != 0) return -EAGAIN;
  state.retrans = 1;
  state.retry = 2;
  int length = res_nsearch(&state, name, ns_c_in, ns_t_srv, answer, size);
  int error = state.res_h_errno;
  res_nclose(&state);
  if (length > size) return -EAGAIN;
  if (length >= 0) return length;
  return error == HOST_NOT_FOUND || error == NO_DATA ? 0 : -EAGAIN;
}
