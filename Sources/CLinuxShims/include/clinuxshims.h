#ifndef CLINUXSHIMS_H
#define CLINUXSHIMS_H

// Linux calls that Swift's Glibc overlay does not show.

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// An anonymous memory file, close-on-exec, of a size that nobody can change. Returns the descriptor, or
// -errno. With `read_only` not NULL it gets a second descriptor, through which the file cannot be
// written or mapped for writing; and the file's mode is 0, so that no other user can open it anew.
int clinux_memfd(const char *name, size_t bytes, int *read_only);

// A listening socket for whole packets at `path`, which is replaced. Returns it, or -errno.
int clinux_local_listen(const char *path);

// The next connection of a listening socket, or -errno (-EAGAIN: none waits).
int clinux_local_accept(int listener);

// A connection to the packet socket at `path`, or -errno.
int clinux_local_connect(const char *path);

// Sends one packet, with descriptors. Never waits. Returns 0 or -errno.
int clinux_local_send(int socket, const void *bytes, size_t count, const int *descriptors,
                      int descriptor_count);

// Receives one packet and up to `capacity` descriptors, close-on-exec. Never waits. Returns its length,
// 0 when the other end is closed, or -errno (-EMSGSIZE: the packet is longer than `count`).
ssize_t clinux_local_receive(int socket, void *bytes, size_t count, int *descriptors, int capacity,
                             int *received);

// Who is at the other end of a connection: the process that connected, or listened. Returns 0 or -errno.
int clinux_local_peer(int socket, pid_t *pid, uid_t *uid);

// A pipe whose ends are close-on-exec. Returns 0 or -errno.
int clinux_pipe(int ends[2]);

// A descriptor that becomes readable when the process ends, or -errno.
int clinux_pidfd(pid_t pid);

// Starts a program found at `path`. in/out/err are descriptors, or -1 for /dev/null. With
// `own_session` it survives its parent's terminal and process group. Returns the pid, or -errno.
pid_t clinux_spawn(const char *path, char *const arguments[], char *const environment[],
                    int in, int out, int err, int own_session);

// From now on this process is killed when the thread that started it ends.
void clinux_end_with_parent(void);

// Nice value of the calling thread only. Returns 0 or -errno.
int clinux_thread_nice(int nice);

// Names the calling thread; the system keeps 15 bytes.
void clinux_thread_name(const char *name);

// User + system CPU time of this process, in nanoseconds.
int64_t clinux_process_cpu_ns(void);

// A counter that is readable once it was written to, close-on-exec, or -errno.
int clinux_event(void);

// Makes a clinux_event readable. Never waits.
void clinux_event_ring(int event);

// Waits until `event` or one of `others` is readable, at most `nanoseconds`, and takes what `event`
// holds. One of the others that is closed is not waited for. Returns the sum of 1 (event) and 2 (one of
// the others), or 0 for neither.
int clinux_event_wait(int event, const int *others, int other_count, int64_t nanoseconds);

// As clinux_event_wait; `writers` are waited for until they can be written to, or are broken.
int clinux_event_wait_both(int event, const int *readers, int reader_count, const int *writers,
                           int writer_count, int64_t nanoseconds);

// Asks the name services that the system is set up with for a service's records (SRV). Waits for them. Returns the
// length of the answer, 0 when there is no such service, or -EAGAIN when none of them could be asked.
int clinux_dns_services(const char *name, unsigned char *answer, int size);

// A listening TCP socket at a numeric address, IPv4 or IPv6. Returns it, or -errno; `bound` gets its port.
int clinux_tcp_listen(const char *host, int port, int *bound);

// The next connection of a listening TCP socket, or -errno (-EAGAIN: none waits).
int clinux_tcp_accept(int listener);

// Begins a connection to a numeric address. Returns it, or -errno; it can be written to once it is made,
// and clinux_tcp_error tells what became of it.
int clinux_tcp_connect(const char *host, int port);

// 0, or the errno that a connection failed with.
int clinux_tcp_error(int socket);

// Writes who is at the other end, as ADDRESS:PORT; nothing where nobody is.
void clinux_tcp_peer(int socket, char *text, size_t size);

// Receives at most `count` bytes. Never waits. Returns how many, 0 when the other end has closed, or -errno.
ssize_t clinux_tcp_receive(int socket, void *bytes, size_t count);

// Sends at most `count` bytes by copying them. Never waits. Returns how many, or -errno.
ssize_t clinux_tcp_send(int socket, const void *bytes, size_t count);

// As the two above, to two places and from several in one call.
ssize_t clinux_tcp_receive_two(int socket, void *first, size_t first_count, void *second,
                               size_t second_count);
ssize_t clinux_tcp_send_parts(int socket, const struct iovec *parts, int count);

// Removes the folder `name` of `parent` with the files in it, if it is a real folder (no link to one)
// that belongs to this user. Follows no link. Returns 0 or -errno.
int clinux_remove_folder(const char *parent, const char *name);

// The epoll descriptors open in this process. Returns how many there are, of which at most
// `capacity` are written, or -errno.
int clinux_epoll_descriptors(int *descriptors, int capacity);

// A datagram socket under an abstract name made of `group` and `rank`. Returns it, or -errno.
int clinux_rank_socket(uint64_t group, int rank);

// Sends one byte to the socket of that group and rank. Never waits; what cannot be sent is not.
void clinux_rank_ring(int socket, uint64_t group, int rank);

// Waits until there is something to read, at most `nanoseconds`. Returns 0 when there is nothing.
int clinux_rank_wait(int socket, int64_t nanoseconds);

// Reads all there is.
void clinux_rank_clear(int socket);

// Sleeps for `nanoseconds`.
void clinux_nap(int64_t nanoseconds);

// Bytes that this process has allocated and not freed.
size_t clinux_allocated(void);

// Advisory exclusive lock on a file, not waited for and not reached through a link. Returns the
// descriptor, or -errno.
int clinux_lock_file(const char *path);

#endif
