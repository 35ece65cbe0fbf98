#define _GNU_SOURCE
#include "clinuxshims.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clinux_memfd(const char *name, size_t bytes, int *read_only) {
  char path[32];
  int error = 0, reader = -1;
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (ftruncate(fd, (off_t)bytes) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    error = errno;
  else if (read_only != NULL &&
           ((reader = open(path, O_RDONLY | O_CLOEXEC)) < 0 || fchmod(fd, 0) != 0))
    error = errno;
  if (error != 0) {
    if (reader >= 0) close(reader);
    close(fd);
    return -error;
  }
  if (read_only != NULL) *read_only = reader;
  return fd;
}

static int local_socket(const char *path, struct sockaddr_un *address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
  strcpy(address->sun_path, path);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return fd < 0 ? -errno : fd;
}

int clinux_local_listen(const char *path) {
  struct sockaddr_un address;
  int fd = local_socket(path, &address);
  if (fd < 0) return fd;
  unlink(path);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || chmod(path, 0600) != 0 ||
      listen(fd, 64) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int clinux_local_accept(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int clinux_local_connect(const char *path) {
  struct sockaddr_un address;
  int fd = local_socket(path, &address);
  if (fd < 0) return fd;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

enum { LOCAL_DESCRIPTORS_MAX = 4 };

int clinux_local_send(int socket, const void *bytes, size_t count, const int *descriptors,
                      int descriptor_count) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(LOCAL_DESCRIPTORS_MAX * sizeof(int))];
  } control;
  struct iovec part = {(void *)bytes, count};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptor_count < 0 || descriptor_count > LOCAL_DESCRIPTORS_MAX) return -EINVAL;
  if (descriptor_count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE((size_t)descriptor_count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)descriptor_count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, (size_t)descriptor_count * sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : 0;
}

ssize_t clinux_local_receive(int socket, void *bytes, size_t count, int *descriptors, int capacity,
                             int *received) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(LOCAL_DESCRIPTORS_MAX * sizeof(int))];
  } control;
  struct iovec part = {bytes, count};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = sizeof control.space};
  ssize_t length;
  *received = 0;
  do {
    length = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length < 0) return -errno;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int found = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < found; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + (size_t)i * sizeof(int), sizeof fd);
      // What nobody asked for must not stay open.
      if (*received < capacity) {
        descriptors[(*received)++] = fd;
      } else {
        close(fd);
      }
    }
  }
  if (message.msg_flags & MSG_TRUNC) {
    while (*received > 0) close(descriptors[--*received]);
    return -EMSGSIZE;
  }
  return length;
}

int clinux_local_peer(int socket, pid_t *pid, uid_t *uid) {
  struct ucred found;
  socklen_t length = sizeof found;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &found, &length) != 0) return -errno;
  *pid = found.pid;
  *uid = found.uid;
  return 0;
}

int clinux_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) == 0 ? 0 : -errno; }

int clinux_pidfd(pid_t pid) {
  long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd < 0 ? -errno : (int)fd;
}

static int place(posix_spawn_file_actions_t *actions, int fd, int slot, int flags) {
  return fd >= 0 ? posix_spawn_file_actions_adddup2(actions, fd, slot)
                 : posix_spawn_file_actions_addopen(actions, slot, "/dev/null", flags, 0);
}

pid_t clinux_spawn(const char *path, char *const arguments[], char *const environment[],
                    int in, int out, int err, int own_session) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  pid_t pid = -1;
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0) return -error;
  error = posix_spawnattr_init(&attributes);
  if (error != 0) {
    posix_spawn_file_actions_destroy(&actions);
    return -error;
  }
  // A child starts with no blocked and no ignored signals, whatever its parent set.
  sigemptyset(&none);
  sigfillset(&all);
  sigdelset(&all, SIGKILL);
  sigdelset(&all, SIGSTOP);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (own_session) flags |= POSIX_SPAWN_SETSID;
  posix_spawnattr_setflags(&attributes, flags);
  error = place(&actions, in, 0, O_RDONLY);
  if (error == 0) error = place(&actions, out, 1, O_WRONLY);
  if (error == 0) error = place(&actions, err, 2, O_WRONLY);
  // UCX opens sockets without close-on-exec; a child that inherited them would keep a dead
  // process's connections open.
  if (error == 0) error = posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  if (error == 0) error = posix_spawn(&pid, path, &actions, &attributes, arguments, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error == 0 ? pid : -error;
}

void clinux_end_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

int clinux_thread_nice(int nice) {
  pid_t tid = (pid_t)syscall(SYS_gettid);
  return setpriority(PRIO_PROCESS, (id_t)tid, nice) == 0 ? 0 : -errno;
}

void clinux_thread_name(const char *name) {
  char shown[16];
  snprintf(shown, sizeof shown, "%s", name);
  pthread_setname_np(pthread_self(), shown);
}

int64_t clinux_process_cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int clinux_lock_file(const char *path) {
  int fd = open(path, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return -errno;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int clinux_event(void) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

void clinux_event_ring(int event) {
  uint64_t one = 1;
  // Fails only when it is full, and then it is readable already.
  ssize_t written = write(event, &one, sizeof one);
  (void)written;
}

int clinux_event_wait(int event, const int *others, int other_count, int64_t nanoseconds) {
  return clinux_event_wait_both(event, others, other_count, NULL, 0, nanoseconds);
}

int clinux_event_wait_both(int event, const int *readers, int reader_count, const int *writers,
                           int writer_count, int64_t nanoseconds) {
  struct pollfd few[64], *waited = few;
  int count = 1, heard = 0, closed = 0;
  int other_count = reader_count + writer_count;
  struct timespec most = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  if (other_count > 63) waited = malloc(((size_t)other_count + 1) * sizeof *waited);
  if (waited == NULL) abort();
  waited[0].fd = event;
  waited[0].events = POLLIN;
  for (; count <= other_count; count++) {
    int is_reader = count <= reader_count;
    waited[count].fd = is_reader ? readers[count - 1] : writers[count - 1 - reader_count];
    waited[count].events = is_reader ? POLLIN : POLLOUT;
  }
  // The system lets others wait for fifty microseconds longer than they asked, so that it wakes less often.
  int is_short = nanoseconds > 0 && nanoseconds < 1000000;
  int slack = is_short ? prctl(PR_GET_TIMERSLACK) : 0;
  if (slack > 0) prctl(PR_SET_TIMERSLACK, 1000UL);
  do {
    closed = 0;
    if (ppoll(waited, (nfds_t)count, &most, NULL) <= 0) break;
    for (int i = 1; i < count; i++) {
      if (waited[i].revents & POLLNVAL) {
        // It was closed, has nothing to tell any more, and would end every wait at once.
        waited[i].fd = -1;
        closed = 1;
      } else if (waited[i].revents != 0) {
        heard |= 2;
      }
    }
    if (waited[0].revents != 0) {
      uint64_t value;
      ssize_t taken = read(event, &value, sizeof value);
      (void)taken;
      heard |= 1;
    }
  } while (heard == 0 && closed);
  if (slack > 0) prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
  if (waited != few) free(waited);
  return heard;
}

int clinux_epoll_descriptors(int *descriptors, int capacity) {
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  if (folder == NULL) return -errno;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char target[32];
    ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
    if (length <= 0) continue;
    target[length] = 0;
    if (strcmp(target, "anon_inode:[eventpoll]") != 0) continue;
    if (count < capacity) descriptors[count] = atoi(entry->d_name);
    count++;
  }
  closedir(folder);
  return count;
}

int clinux_remove_folder(const char *parent, const char *name) {
  struct stat info;
  int root = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return -errno;
  int folder = openat(root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int result = folder < 0 ? -errno : 0;
  if (result == 0 && (fstat(folder, &info) != 0 || info.st_uid != geteuid())) result = -EPERM;
  if (result == 0) {
    // The list has its own descriptor; what it names is only ever reached through ours.
    DIR *list = fdopendir(dup(folder));
    for (struct dirent *entry; list != NULL && (entry = readdir(list)) != NULL;)
      if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
        unlinkat(folder, entry->d_name, 0);
    if (list != NULL) closedir(list);
    if (unlinkat(root, name, AT_REMOVEDIR) != 0) result = -errno;
  }
  if (folder >= 0) close(folder);
  close(root);
  return result;
}

static socklen_t rank_name(struct sockaddr_un *address, uint64_t group, int rank) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  // The first byte stays 0: no file, nothing to take away.
  int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "remote-g2-%llu-%d",
                        (unsigned long long)group, rank);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

int clinux_rank_socket(uint64_t group, int rank) {
  struct sockaddr_un address;
  socklen_t length = rank_name(&address, group, rank);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  if (bind(fd, (struct sockaddr *)&address, length) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

void clinux_rank_ring(int socket, uint64_t group, int rank) {
  struct sockaddr_un address;
  socklen_t length = rank_name(&address, group, rank);
  char byte = 1;
  ssize_t sent = sendto(socket, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL,
                        (struct sockaddr *)&address, length);
  (void)sent;
}

int clinux_rank_wait(int socket, int64_t nanoseconds) {
  struct pollfd waited = {socket, POLLIN, 0};
  struct timespec most = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  return ppoll(&waited, 1, &most, NULL) > 0;
}

void clinux_rank_clear(int socket) {
  char bytes[16];
  while (recv(socket, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
  }
}

size_t clinux_allocated(void) {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

void clinux_nap(int64_t nanoseconds) {
  struct timespec most = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  nanosleep(&most, NULL);
}
