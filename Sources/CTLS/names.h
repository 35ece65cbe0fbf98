#ifndef CTLS_NAMES_H
#define CTLS_NAMES_H

#include "ctls.h"
#include "library.h"

// What certificates say of who somebody is. More of them than this are not looked at.
enum { ctls_names_max = 16 };

typedef struct {
  int count;
  char text[ctls_names_max][ctls_name_max];
} ctls_names;

// The DNS names of a certificate. One that could be taken for another, because it holds a zero byte or does not
// fit, is none.
void ctls_names_read(const ctls_library *l, X509 *certificate, ctls_names *names);
// What to call a certificate in a message: its first name, or its subject's; only what can be printed.
void ctls_names_tell(const ctls_library *l, X509 *certificate, char *text);

#endif
