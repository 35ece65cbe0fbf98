#ifndef CTLS_SESSION_H
#define CTLS_SESSION_H

#include "names.h"

enum {
  // Received with one call, and sent with one: six records. With 256 KiB it takes a fifth longer, with 36 a tenth.
  ctls_buffer_bytes = 98 << 10,
  // The most that one record holds, and what it is longer for being encrypted.
  ctls_record_bytes = 16 << 10,
  ctls_record_extra = 256
};

struct ctls_credentials {
  SSL_CTX *context;
  ctls_names names;
  int64_t end;
};

struct ctls_session {
  SSL *ssl;
  int socket;
  // Encrypted, and not sent yet.
  unsigned char *out;
  size_t out_first, out_end, out_size;
  int has_ended;
  // A connection there was: something of ours went over it.
  int has_sent;
  // Whose certificate the listener must show; empty: any.
  char expected[ctls_name_max];
  // The socket is broken.
  int is_broken;
  enum ctls_outcome outcome;
  int code;
  char reason[ctls_reason_max];
  char name[ctls_name_max];
  ctls_names peer;
  int knows_peer;
};

#endif
