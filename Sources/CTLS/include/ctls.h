#ifndef CTLS_H
#define CTLS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// TLS 1.3 over a socket that never waits, by the OpenSSL 3 of the system, which is loaded at run time: a host
// without it runs everything but TLS. A session belongs to one thread; credentials may be used by many.

#ifdef __cplusplus
extern "C" {
#endif

// What a node shows of itself, and whose certificates it believes.
typedef struct ctls_credentials ctls_credentials;
// One end of one connection.
typedef struct ctls_session ctls_session;

enum { ctls_name_max = 256, ctls_reason_max = 512 };

// Why there is no handshake, or that there is none yet.
enum ctls_outcome {
  ctls_shaking_hands = 0,
  ctls_established = 1,
  // The other end's certificate is not believed: `code` is OpenSSL's X509_V_ERR_…
  ctls_not_believed = 2,
  // The other end does not believe ours: `code` is the alert it sent.
  ctls_refused = 3,
  // It speaks no TLS, or none that is spoken here.
  ctls_senseless = 4,
  // It ended the connection without a word.
  ctls_ended = 5
};

typedef struct {
  enum ctls_outcome outcome;
  int code;
  // OpenSSL's own words for it.
  char reason[ctls_reason_max];
  // Of the certificate that is not believed; empty when there is none.
  char name[ctls_name_max];
} ctls_state;

// NULL when OpenSSL 3 is here; otherwise why it cannot be loaded.
const char *ctls_unavailable(void);

// Reads PEM files. On failure NULL, and `reason` says which file and why. `revoked` may be NULL: a file of CRLs.
ctls_credentials *ctls_credentials_read(const char *certificate, const char *key,
                                        const char *authority, const char *revoked, char *reason,
                                        size_t reason_size);
void ctls_credentials_free(ctls_credentials *credentials);
// How many DNS names the certificate has, and one of them; NULL when it holds what no name holds.
int ctls_credentials_name_count(const ctls_credentials *credentials);
const char *ctls_credentials_name(const ctls_credentials *credentials, int place);
// Seconds since 1970 after which the certificate is valid no more.
int64_t ctls_credentials_end(const ctls_credentials *credentials);

// `connects`: this end does not listen. `expected`: the name that the listener's certificate must have; NULL: any. The
// socket stays its owner's. NULL for want of memory.
ctls_session *ctls_session_make(ctls_credentials *credentials, int socket, int connects,
                                const char *expected);
void ctls_session_free(ctls_session *session);

// Bytes received, 0 at the end, -EAGAIN when none is here, -EPROTO when the connection is broken.
ssize_t ctls_receive(ctls_session *session, void *bytes, size_t count);
// Bytes taken, all of which will be sent, -EAGAIN when none is taken now, -EPROTO when the connection is broken.
ssize_t ctls_send(ctls_session *session, const struct iovec *parts, int count);
// 1 when all that was taken is sent, 0 when some is not, -EPROTO when the connection is broken.
int ctls_flush(ctls_session *session);
int ctls_has_unsent(const ctls_session *session);

void ctls_session_state(const ctls_session *session, ctls_state *state);
// DNS names of the other end's certificate; 0 before the handshake is over.
int ctls_peer_name_count(ctls_session *session);
const char *ctls_peer_name(ctls_session *session, int place);

#ifdef __cplusplus
}
#endif

#endif
