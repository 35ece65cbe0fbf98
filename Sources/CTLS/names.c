#include "names.h"

#include <stdio.h>
#include <string.h>

void ctls_names_read(const ctls_library *l, X509 *certificate, ctls_names *names) {
  names->count = 0;
  if (certificate == NULL) return;
  void *found = l->X509_get_ext_d2i_(certificate, NID_subject_alt_name, NULL, NULL);
  if (found == NULL) return;
  int most = l->OPENSSL_sk_num_(found);
  for (int place = 0; place < most && names->count < ctls_names_max; place++) {
    const GENERAL_NAME *name = l->OPENSSL_sk_value_(found, place);
    if (name->type != GEN_DNS) continue;
    int length = l->ASN1_STRING_length_(name->d.dNSName);
    const unsigned char *text = l->ASN1_STRING_get0_data_(name->d.dNSName);
    if (length <= 0 || length >= ctls_name_max || memchr(text, 0, (size_t)length) != NULL) continue;
    memcpy(names->text[names->count], text, (size_t)length);
    names->text[names->count][length] = 0;
    names->count++;
  }
  l->GENERAL_NAMES_free_(found);
}

void ctls_names_tell(const ctls_library *l, X509 *certificate, char *text) {
  ctls_names names;
  text[0] = 0;
  if (certificate == NULL) return;
  ctls_names_read(l, certificate, &names);
  if (names.count > 0) {
    snprintf(text, ctls_name_max, "%s", names.text[0]);
  } else {
    l->X509_NAME_get_text_by_NID_(l->X509_get_subject_name_(certificate), NID_commonName, text,
                                  ctls_name_max);
  }
  for (char *byte = text; *byte != 0; byte++) {
    if (*byte < 0x20 || *byte > 0x7e || *byte == '"') *byte = '?';
  }
}
