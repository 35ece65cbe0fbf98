#ifndef CALLOCATIONS_H
#define CALLOCATIONS_H
#include <stdint.h>
// Allocations this process has made so far: malloc, calloc, realloc and aligned ones.
uint64_t callocations_count(void);
#endif
