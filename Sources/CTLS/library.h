#ifndef CTLS_LIBRARY_H
#define CTLS_LIBRARY_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

// OpenSSL's functions that are used, each looked up once, by name.
#define CTLS_FUNCTIONS(F)                                                                        \
  F(ASN1_STRING_get0_data) F(ASN1_STRING_length) F(ASN1_TIME_diff) F(ASN1_TIME_set)              \
  F(ASN1_TIME_free) F(BIO_clear_flags) F(BIO_get_data) F(BIO_meth_free) F(BIO_meth_new)          \
  F(BIO_meth_set_create) F(BIO_meth_set_ctrl) F(BIO_meth_set_read) F(BIO_meth_set_write)         \
  F(BIO_new) F(BIO_set_data) F(BIO_set_flags) F(BIO_set_init) F(ERR_clear_error)                 \
  F(ERR_peek_error) F(ERR_reason_error_string) F(GENERAL_NAMES_free) F(OPENSSL_sk_num)           \
  F(OPENSSL_sk_value) F(SSL_CTX_check_private_key) F(SSL_CTX_ctrl) F(SSL_CTX_free)               \
  F(SSL_CTX_get0_certificate) F(SSL_CTX_get_cert_store) F(SSL_CTX_load_verify_file)              \
  F(SSL_CTX_new) F(SSL_CTX_set_ciphersuites) F(SSL_CTX_set_default_passwd_cb)                    \
  F(SSL_CTX_set_default_read_buffer_len) F(SSL_CTX_set_num_tickets) F(SSL_CTX_set_verify)        \
  F(SSL_CTX_use_PrivateKey_file) F(SSL_CTX_use_certificate_chain_file) F(SSL_free)               \
  F(SSL_get0_peer_certificate) F(SSL_get_error) F(SSL_get_ex_data)                               \
  F(SSL_get_ex_data_X509_STORE_CTX_idx) F(SSL_get_verify_result) F(SSL_is_init_finished)         \
  F(SSL_new) F(SSL_read_ex) F(SSL_set1_host) F(SSL_set_accept_state) F(SSL_set_bio)              \
  F(SSL_set_connect_state) F(SSL_set_ex_data) F(SSL_set_hostflags) F(SSL_write_ex)               \
  F(TLS_method) F(X509_STORE_CTX_get_current_cert) F(X509_STORE_CTX_get_ex_data)                 \
  F(X509_STORE_load_file) F(X509_STORE_set_flags) F(X509_get0_notAfter) F(X509_get_ext_d2i)      \
  F(X509_get_subject_name) F(X509_NAME_get_text_by_NID) F(X509_verify_cert_error_string)

#define CTLS_DECLARE(name) __typeof__(&name) name##_;
typedef struct {
  CTLS_FUNCTIONS(CTLS_DECLARE)
} ctls_library;
#undef CTLS_DECLARE

// NULL where there is none: ctls_unavailable() says why.
const ctls_library *ctls_library_get(void);

#endif
