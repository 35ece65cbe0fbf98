#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

static void tell(const ctls_library *l, char *reason, size_t size, const char *file,
                 const char *what) {
  unsigned long error = l->ERR_peek_error_();
  const char *why = error != 0 ? l->ERR_reason_error_string_(error) : NULL;
  // A system's error has no words of OpenSSL's: the file is not there, or not ours to read.
  if (why == NULL && errno != 0) why = strerror(errno);
  snprintf(reason, size, "%s: %s%s%s", file, what, why != NULL ? ": " : "", why != NULL ? why : "");
}

// A key that is locked is refused, and nobody is asked for the word that opens it.
static int no_password(char *text, int size, int writes, void *context) {
  (void)text, (void)size, (void)writes, (void)context;
  return -1;
}

// Who is not believed is named.
static int judged(int is_believed, X509_STORE_CTX *context) {
  const ctls_library *l = ctls_library_get();
  if (is_believed) return 1;
  SSL *ssl = l->X509_STORE_CTX_get_ex_data_(context, l->SSL_get_ex_data_X509_STORE_CTX_idx_());
  ctls_session *session = ssl != NULL ? l->SSL_get_ex_data_(ssl, 0) : NULL;
  X509 *certificate = l->X509_STORE_CTX_get_current_cert_(context);
  if (session != NULL) ctls_names_tell(l, certificate, session->name);
  return 0;
}

static int64_t end_of(const ctls_library *l, X509 *certificate) {
  int days = 0, seconds = 0;
  ASN1_TIME *epoch = l->ASN1_TIME_set_(NULL, 0);
  int is_known = epoch != NULL && l->ASN1_TIME_diff_(&days, &seconds, epoch,
                                                     l->X509_get0_notAfter_(certificate)) == 1;
  l->ASN1_TIME_free_(epoch);
  return is_known ? (int64_t)days * 86400 + seconds : 0;
}

ctls_credentials *ctls_credentials_read(const char *certificate, const char *key,
                                        const char *authority, const char *revoked, char *reason,
                                        size_t size) {
  const ctls_library *l = ctls_library_get();
  if (l == NULL) {
    snprintf(reason, size, "TLS needs OpenSSL 3 (Debian: libssl3), which cannot be loaded: %s",
             ctls_unavailable());
    return NULL;
  }
  l->ERR_clear_error_();
  errno = 0;
  SSL_CTX *context = l->SSL_CTX_new_(l->TLS_method_());
  ctls_credentials *credentials = calloc(1, sizeof *credentials);
  if (context == NULL || credentials == NULL) {
    snprintf(reason, size, "no memory for TLS");
    goto failed;
  }
  l->SSL_CTX_ctrl_(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_3_VERSION, NULL);
  l->SSL_CTX_ctrl_(context, SSL_CTRL_MODE,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, NULL);
  // No handshake is shortened: a certificate that is valid no more would be believed for longer.
  l->SSL_CTX_ctrl_(context, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
  l->SSL_CTX_set_num_tickets_(context, 0);
  // Many records with one call.
  l->SSL_CTX_ctrl_(context, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
  l->SSL_CTX_set_default_read_buffer_len_(context, ctls_buffer_bytes);
  l->SSL_CTX_set_default_passwd_cb_(context, no_password);
  l->SSL_CTX_set_ciphersuites_(
      context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
  l->SSL_CTX_set_verify_(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judged);
  if (l->SSL_CTX_use_certificate_chain_file_(context, certificate) != 1) {
    tell(l, reason, size, certificate, "is no certificate in PEM");
    goto failed;
  }
  if (l->SSL_CTX_use_PrivateKey_file_(context, key, SSL_FILETYPE_PEM) != 1) {
    tell(l, reason, size, key, "is not this certificate's private key in PEM, without a password");
    goto failed;
  }
  if (l->SSL_CTX_load_verify_file_(context, authority) != 1) {
    tell(l, reason, size, authority, "holds no authority's certificate in PEM");
    goto failed;
  }
  if (revoked != NULL) {
    X509_STORE *store = l->SSL_CTX_get_cert_store_(context);
    if (l->X509_STORE_load_file_(store, revoked) != 1) {
      tell(l, reason, size, revoked, "holds no list of revoked certificates in PEM");
      goto failed;
    }
    l->X509_STORE_set_flags_(store, X509_V_FLAG_CRL_CHECK);
  }
  X509 *own = l->SSL_CTX_get0_certificate_(context);
  ctls_names_read(l, own, &credentials->names);
  credentials->end = end_of(l, own);
  credentials->context = context;
  return credentials;
failed:
  if (context != NULL) l->SSL_CTX_free_(context);
  free(credentials);
  l->ERR_clear_error_();
  return NULL;
}

void ctls_credentials_free(ctls_credentials *credentials) {
  if (credentials == NULL) return;
  ctls_library_get()->SSL_CTX_free_(credentials->context);
  free(credentials);
}

int ctls_credentials_name_count(const ctls_credentials *credentials) {
  return credentials->names.count;
}

const char *ctls_credentials_name(const ctls_credentials *credentials, int place) {
  return credentials->names.text[place];
}

int64_t ctls_credentials_end(const ctls_credentials *credentials) { return credentials->end; }
