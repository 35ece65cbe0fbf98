#include "session.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// OpenSSL reads from the socket and writes to memory of ours, which is sent with as few calls as may be. So what is
// to be sent is taken whole or not at all, and never has to be given twice.

static int bio_write(BIO *bio, const char *bytes, int count) {
  ctls_session *session = ctls_library_get()->BIO_get_data_(bio);
  size_t needed = session->out_end + (size_t)count;
  if (needed > session->out_size) {
    size_t size = needed > ctls_buffer_bytes ? needed : ctls_buffer_bytes;
    unsigned char *out = realloc(session->out, size);
    if (out == NULL) return -1;
    session->out = out;
    session->out_size = size;
  }
  memcpy(session->out + session->out_end, bytes, (size_t)count);
  session->out_end = needed;
  return count;
}

static int bio_read(BIO *bio, char *bytes, int count) {
  const ctls_library *l = ctls_library_get();
  ctls_session *session = l->BIO_get_data_(bio);
  l->BIO_clear_flags_(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
  ssize_t received;
  do {
    received = recv(session->socket, bytes, (size_t)count, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received > 0) return (int)received;
  // A connection that is still being made can be neither read nor written.
  if (received < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
    l->BIO_set_flags_(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
    return -1;
  }
  session->has_ended = 1;
  return received < 0 ? -1 : 0;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
  (void)number, (void)pointer;
  if (command == BIO_CTRL_FLUSH) return 1;
  if (command != BIO_CTRL_EOF) return 0;
  ctls_session *session = ctls_library_get()->BIO_get_data_(bio);
  return session->has_ended;
}

static int bio_create(BIO *bio) {
  ctls_library_get()->BIO_set_init_(bio, 1);
  return 1;
}

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static void make_method(void) {
  const ctls_library *l = ctls_library_get();
  BIO_METHOD *made = l->BIO_meth_new_(BIO_TYPE_SOURCE_SINK | 100, "remote-g2");
  if (made == NULL) return;
  l->BIO_meth_set_write_(made, bio_write);
  l->BIO_meth_set_read_(made, bio_read);
  l->BIO_meth_set_ctrl_(made, bio_control);
  l->BIO_meth_set_create_(made, bio_create);
  method = made;
}

ctls_session *ctls_session_make(ctls_credentials *credentials, int socket, int connects,
                                const char *expected) {
  const ctls_library *l = ctls_library_get();
  pthread_once(&method_once, make_method);
  ctls_session *session = calloc(1, sizeof *session);
  if (session == NULL || method == NULL) goto failed;
  session->socket = socket;
  session->ssl = l->SSL_new_(credentials->context);
  if (session->ssl == NULL) goto failed;
  l->SSL_set_ex_data_(session->ssl, 0, session);
  BIO *bio = l->BIO_new_(method);
  if (bio == NULL) goto failed;
  l->BIO_set_data_(bio, session);
  l->SSL_set_bio_(session->ssl, bio, bio);
  if (!connects) {
    l->SSL_set_accept_state_(session->ssl);
    return session;
  }
  l->SSL_set_connect_state_(session->ssl);
  if (expected == NULL) return session;
  // A name is one of its DNS names, and nothing that is only like it.
  snprintf(session->expected, sizeof session->expected, "%s", expected);
  l->SSL_set_hostflags_(session->ssl, X509_CHECK_FLAG_NO_WILDCARDS |
                                          X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  if (l->SSL_set1_host_(session->ssl, expected) != 1) goto failed;
  return session;
failed:
  ctls_session_free(session);
  return NULL;
}

void ctls_session_free(ctls_session *session) {
  if (session == NULL) return;
  if (session->ssl != NULL) ctls_library_get()->SSL_free_(session->ssl);
  free(session->out);
  free(session);
}

int ctls_has_unsent(const ctls_session *session) { return session->out_first < session->out_end; }

int ctls_flush(ctls_session *session) {
  while (session->out_first < session->out_end) {
    ssize_t sent = send(session->socket, session->out + session->out_first,
                        session->out_end - session->out_first, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) return 0;
    if (sent < 0) {
      session->is_broken = 1;
      return -EPROTO;
    }
    session->has_sent = 1;
    session->out_first += (size_t)sent;
  }
  session->out_first = session->out_end = 0;
  return 1;
}

static void note(ctls_session *session, enum ctls_outcome outcome, int code, const char *reason) {
  session->outcome = outcome;
  session->code = code;
  snprintf(session->reason, sizeof session->reason, "%s", reason != NULL ? reason : "unknown");
}

// Why the connection is broken, and the other end is told.
static ssize_t broken(ctls_session *session) {
  const ctls_library *l = ctls_library_get();
  unsigned long error = l->ERR_peek_error_();
  int reason = ERR_GET_REASON(error);
  long verdict = l->SSL_get_verify_result_(session->ssl);
  const char *text = l->ERR_reason_error_string_(error);
  if (session->is_broken) return -EPROTO;
  session->is_broken = 1;
  if (error != 0 && reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
    note(session, ctls_refused, reason - SSL_AD_REASON_OFFSET, text);
  } else if (session->outcome == ctls_shaking_hands) {
    if (verdict != X509_V_OK) {
      note(session, ctls_not_believed, (int)verdict, l->X509_verify_cert_error_string_(verdict));
    } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
      note(session, ctls_not_believed, 0, "it shows no certificate");
    } else if (session->has_ended) {
      // Where nobody listens nobody refuses.
      if (session->has_sent) note(session, ctls_ended, 0, "it ended the connection");
    } else {
      note(session, ctls_senseless, 0, text);
    }
  }
  ctls_flush(session);
  session->is_broken = 1;
  // What is not read when the socket is closed would have the other end's system forget what it was told.
  char rest[4096];
  for (int piece = 0; piece < 16; piece++) {
    if (recv(session->socket, rest, sizeof rest, MSG_DONTWAIT) <= 0) break;
  }
  return -EPROTO;
}

static ssize_t failed(ctls_session *session) {
  const ctls_library *l = ctls_library_get();
  switch (l->SSL_get_error_(session->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
      return 0;
    default:
      return broken(session);
  }
}

static void know_peer(ctls_session *session) {
  if (session->knows_peer) return;
  const ctls_library *l = ctls_library_get();
  session->knows_peer = 1;
  ctls_names_read(l, l->SSL_get0_peer_certificate_(session->ssl), &session->peer);
}

// Whether the handshake is over now, and with whom.
static void advanced(ctls_session *session) {
  if (session->is_broken || session->outcome != ctls_shaking_hands ||
      !ctls_library_get()->SSL_is_init_finished_(session->ssl)) {
    return;
  }
  session->outcome = ctls_established;
  if (session->expected[0] == 0) return;
  know_peer(session);
  for (int place = 0; place < session->peer.count; place++) {
    if (strcmp(session->peer.text[place], session->expected) == 0) return;
  }
  // OpenSSL takes no account of upper and lower case.
  note(session, ctls_not_believed, X509_V_ERR_HOSTNAME_MISMATCH, "another name");
  if (session->peer.count > 0) {
    snprintf(session->name, sizeof session->name, "%s", session->peer.text[0]);
  }
  session->is_broken = 1;
}

ssize_t ctls_receive(ctls_session *session, void *bytes, size_t count) {
  const ctls_library *l = ctls_library_get();
  size_t all = 0;
  if (session->is_broken) return -EPROTO;
  l->ERR_clear_error_();
  while (all < count) {
    size_t got = 0;
    if (l->SSL_read_ex_(session->ssl, (char *)bytes + all, count - all, &got) != 1) break;
    all += got;
  }
  ssize_t outcome = all > 0 ? (ssize_t)all : failed(session);
  advanced(session);
  if (session->is_broken) return -EPROTO;
  return ctls_flush(session) < 0 && all == 0 ? -EPROTO : outcome;
}

ssize_t ctls_send(ctls_session *session, const struct iovec *parts, int count) {
  const ctls_library *l = ctls_library_get();
  size_t all = 0;
  if (session->is_broken) return -EPROTO;
  int is_sent = ctls_flush(session);
  if (is_sent <= 0) return is_sent < 0 ? -EPROTO : -EAGAIN;
  l->ERR_clear_error_();
  int is_open = 1;
  for (int place = 0; place < count && is_open; place++) {
    size_t done = 0;
    while (done < parts[place].iov_len && is_open) {
      size_t size = parts[place].iov_len - done, taken = 0;
      if (size > ctls_record_bytes) size = ctls_record_bytes;
      is_open = session->out_end + size + ctls_record_extra <= ctls_buffer_bytes &&
                l->SSL_write_ex_(session->ssl, (const char *)parts[place].iov_base + done, size,
                                 &taken) == 1;
      done += taken;
      all += taken;
    }
  }
  ssize_t outcome = all > 0 ? (ssize_t)all : failed(session);
  advanced(session);
  return session->is_broken || ctls_flush(session) < 0 ? -EPROTO : outcome;
}

void ctls_session_state(const ctls_session *session, ctls_state *state) {
  state->outcome = session->outcome;
  state->code = session->code;
  memcpy(state->reason, session->reason, sizeof state->reason);
  memcpy(state->name, session->name, sizeof state->name);
}

int ctls_peer_name_count(ctls_session *session) {
  if (session->outcome != ctls_established) return 0;
  know_peer(session);
  return session->peer.count;
}

const char *ctls_peer_name(ctls_session *session, int place) { return session->peer.text[place]; }
