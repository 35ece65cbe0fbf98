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

static int tcp_address(const char *host, int port, struct sockaddr_in *address) {
  memset(address, 0, sizeof *address);
  address->sin_family = AF_INET;
  address->sin_port = htons((uint16_t)port);
  return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : -EINVAL;
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
  struct sockaddr_in address;
  socklen_t length = sizeof address;
  int on = 1, error = tcp_address(host, port, &address);
  if (error != 0) return error;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
    error = errno;
    close(fd);
    return -error;
  }
  *bound = ntohs(address.sin_port);
  return fd;
}

int clinux_tcp_accept(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return -errno;
  tcp_options(fd);
  return fd;
}

int clinux_tcp_connect(const char *host, int port) {
  struct sockaddr_in address;
  int error = tcp_address(host, port, &address);
  if (error != 0) return error;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  tcp_options(fd);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) {
    error = errno;
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
  struct sockaddr_in address;
  socklen_t length = sizeof address;
  char host[INET_ADDRSTRLEN];
  text[0] = 0;
  if (getpeername(socket, (struct sockaddr *)&address, &length) != 0) return;
  if (inet_ntop(AF_INET, &address.sin_addr, host, sizeof host) == NULL) return;
  snprintf(text, size, "%s:%d", host, ntohs(address.sin_port));
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
