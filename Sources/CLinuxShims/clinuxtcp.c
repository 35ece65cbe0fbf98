#define _GNU_SOURCE
#include "clinuxshims.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

typedef union {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
} tcp_address;

// Numeric, of either kind. Returns its length, or -EINVAL.
static int tcp_parse(const char *host, int port, tcp_address *address) {
  memset(address, 0, sizeof *address);
  if (inet_pton(AF_INET, host, &address->v4.sin_addr) == 1) {
    address->v4.sin_family = AF_INET;
    address->v4.sin_port = htons((uint16_t)port);
    return sizeof address->v4;
  }
  if (inet_pton(AF_INET6, host, &address->v6.sin6_addr) == 1) {
    address->v6.sin6_family = AF_INET6;
    address->v6.sin6_port = htons((uint16_t)port);
    return sizeof address->v6;
  }
  return -EINVAL;
}

static int tcp_port(const tcp_address *address) {
  return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

static void tcp_options(int fd) {
  int on = 1;
  // What was sent and not acknowledged for so long breaks the connection.
  unsigned int most = 5000;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &most, sizeof most);
  // A host that has vanished says nothing: a connection with nothing to send finds out by asking.
  int idle = 5, interval = 2, probes = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

int clinux_tcp_listen(const char *host, int port, int *bound) {
  tcp_address address;
  int on = 1, parsed = tcp_parse(host, port, &address);
  if (parsed < 0) return parsed;
  socklen_t length = (socklen_t)parsed;
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // An address of the one kind is no address of the other.
  if (address.any.sa_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  }
  if (bind(fd, &address.any, length) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, &address.any, &length) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  *bound = tcp_port(&address);
  return fd;
}

int clinux_tcp_accept(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return -errno;
  tcp_options(fd);
  return fd;
}

int clinux_tcp_connect(const char *host, int port) {
  tcp_address address;
  int length = tcp_parse(host, port, &address);
  if (length < 0) return length;
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  tcp_options(fd);
  if (connect(fd, &address.any, (socklen_t)length) != 0 && errno != EINPROGRESS) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int clinux_tcp_error(int socket) {
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

void clinux_tcp_peer(int socket, char *text, size_t size) {
  tcp_address address;
  socklen_t length = sizeof address;
  char host[INET6_ADDRSTRLEN];
  text[0] = 0;
  if (getpeername(socket, &address.any, &length) != 0) return;
  int is_v6 = address.any.sa_family == AF_INET6;
  const void *bytes = is_v6 ? (const void *)&address.v6.sin6_addr : &address.v4.sin_addr;
  if (inet_ntop(address.any.sa_family, bytes, host, sizeof host) == NULL) return;
  snprintf(text, size, is_v6 ? "[%s]:%d" : "%s:%d", host, tcp_port(&address));
}

ssize_t clinux_tcp_receive(int socket, void *bytes, size_t count) {
  ssize_t received;
  do {
    received = recv(socket, bytes, count, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  return received < 0 ? -errno : received;
}

ssize_t clinux_tcp_receive_two(int socket, void *first, size_t first_count, void *second,
                               size_t second_count) {
  struct iovec parts[2] = {{first, first_count}, {second, second_count}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  return received < 0 ? -errno : received;
}

ssize_t clinux_tcp_send_parts(int socket, const struct iovec *parts, int count) {
  struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = count};
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

ssize_t clinux_tcp_send(int socket, const void *bytes, size_t count) {
  ssize_t sent;
  do {
    sent = send(socket, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}
