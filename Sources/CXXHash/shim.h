#include <xxhash.h>

// On x86-64 the library has these for every vector width, and chooses by what the processor has.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#endif

static inline XXH128_hash_t cxxhash_128(const void *bytes, size_t count) {
  return XXH3_128bits(bytes, count);
}

static inline XXH128_hash_t cxxhash_128_seeded(const void *bytes, size_t count, XXH64_hash_t seed) {
  return XXH3_128bits_withSeed(bytes, count, seed);
}

static inline void cxxhash_128_update(XXH3_state_t *state, const void *bytes, size_t count) {
  XXH3_128bits_update(state, bytes, count);
}
