#ifndef CNIXL_H
#define CNIXL_H

// NVIDIA NIXL's C API (libnixl_capi.so, 1.5.1), loaded at run time into a checked table.
// Nothing here links against NIXL: a machine without it builds and runs, and cnixl_load says why.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  CNIXL_SUCCESS = 0,
  CNIXL_IN_PROGRESS = 1,
  CNIXL_INVALID_PARAM = -1,
  CNIXL_BACKEND = -2,
  CNIXL_INVALID_STATE = -3,
  CNIXL_EXCEPTION = -4,
  CNIXL_NO_TELEMETRY = -5,
  CNIXL_NOT_FOUND = -6,
  CNIXL_NOT_LOADED = -100,
};

enum { CNIXL_MEM_DRAM = 0 };
enum { CNIXL_READ = 0, CNIXL_WRITE = 1 };

// Mirrors nixl_capi_agent_config_t. num_workers is not read by 1.5.1.
typedef struct {
  bool enable_progress_thread;
  bool enable_listen_thread;
  int listen_port;
  int thread_sync;
  unsigned int num_workers;
  uint64_t progress_delay_us;
  uint64_t listen_delay_us;
  bool capture_telemetry;
} cnixl_agent_config;

typedef struct cnixl_agent *cnixl_agent_t;
typedef struct cnixl_params *cnixl_params_t;
typedef struct cnixl_mem_list *cnixl_mem_list_t;
typedef struct cnixl_backend *cnixl_backend_t;
typedef struct cnixl_options *cnixl_options_t;
typedef struct cnixl_extents *cnixl_extents_t;
typedef struct cnixl_list *cnixl_list_t;
typedef struct cnixl_regions *cnixl_regions_t;
typedef struct cnixl_request *cnixl_request_t;
typedef struct cnixl_strings *cnixl_strings_t;

// One list, four uses: prototypes, table, dlsym loop, forwarding functions.
#define CNIXL_FUNCTIONS(X) \
  X(create_configured_agent, (const char *n, const cnixl_agent_config *c, cnixl_agent_t *a), (n, c, a)) \
  X(destroy_agent, (cnixl_agent_t a), (a)) \
  X(get_local_md, (cnixl_agent_t a, void **d, size_t *n), (a, d, n)) \
  X(load_remote_md, (cnixl_agent_t a, const void *d, size_t n, char **s), (a, d, n, s)) \
  X(invalidate_remote_md, (cnixl_agent_t a, const char *n), (a, n)) \
  X(get_available_plugins, (cnixl_agent_t a, cnixl_strings_t *s), (a, s)) \
  X(string_list_size, (cnixl_strings_t s, size_t *n), (s, n)) \
  X(string_list_get, (cnixl_strings_t s, size_t i, const char **t), (s, i, t)) \
  X(destroy_string_list, (cnixl_strings_t s), (s)) \
  X(get_plugin_params, (cnixl_agent_t a, const char *n, cnixl_mem_list_t *m, cnixl_params_t *p), (a, n, m, p)) \
  X(destroy_mem_list, (cnixl_mem_list_t m), (m)) \
  X(destroy_params, (cnixl_params_t p), (p)) \
  X(params_add, (cnixl_params_t p, const char *k, const char *v), (p, k, v)) \
  X(create_backend, (cnixl_agent_t a, const char *n, cnixl_params_t p, cnixl_backend_t *b), (a, n, p, b)) \
  X(destroy_backend, (cnixl_backend_t b), (b)) \
  X(create_opt_args, (cnixl_options_t *o), (o)) \
  X(destroy_opt_args, (cnixl_options_t o), (o)) \
  X(opt_args_add_backend, (cnixl_options_t o, cnixl_backend_t b), (o, b)) \
  X(register_mem, (cnixl_agent_t a, cnixl_regions_t r, cnixl_options_t o), (a, r, o)) \
  X(deregister_mem, (cnixl_agent_t a, cnixl_regions_t r, cnixl_options_t o), (a, r, o)) \
  X(agent_make_connection, (cnixl_agent_t a, const char *n, cnixl_options_t o), (a, n, o)) \
  X(create_reg_dlist, (int m, cnixl_regions_t *r), (m, r)) \
  X(reg_dlist_add_desc, (cnixl_regions_t r, uintptr_t p, size_t n, uint64_t d, const void *x, size_t xn), (r, p, n, d, x, xn)) \
  X(destroy_reg_dlist, (cnixl_regions_t r), (r)) \
  X(create_xfer_dlist, (int m, cnixl_extents_t *e), (m, e)) \
  X(xfer_dlist_add_desc, (cnixl_extents_t e, uintptr_t p, size_t n, uint64_t d), (e, p, n, d)) \
  X(destroy_xfer_dlist, (cnixl_extents_t e), (e)) \
  X(prep_xfer_dlist, (cnixl_agent_t a, const char *n, cnixl_extents_t e, cnixl_list_t *l, cnixl_options_t o), (a, n, e, l, o)) \
  X(release_xfer_dlist_handle, (cnixl_agent_t a, cnixl_list_t l), (a, l)) \
  X(make_xfer_req, (cnixl_agent_t a, int op, cnixl_list_t l, const int *li, size_t ln, cnixl_list_t r, const int *ri, size_t rn, cnixl_request_t *q, cnixl_options_t o), (a, op, l, li, ln, r, ri, rn, q, o)) \
  X(post_xfer_req, (cnixl_agent_t a, cnixl_request_t q, cnixl_options_t o), (a, q, o)) \
  X(get_xfer_status, (cnixl_agent_t a, cnixl_request_t q), (a, q)) \
  X(release_xfer_req, (cnixl_agent_t a, cnixl_request_t q), (a, q)) \
  X(destroy_xfer_req, (cnixl_request_t q), (q))

#define CNIXL_PROTOTYPE(name, parameters, arguments) int cnixl_##name parameters;
CNIXL_FUNCTIONS(CNIXL_PROTOTYPE)
#undef CNIXL_PROTOTYPE

// Opens the library and fills the table, once per process. Returns 0, or -1 (cannot be opened) or
// -2 (a function is missing); then `reason` says which, and nothing was kept.
int cnixl_load(const char *path, char *reason, size_t reason_bytes);

// The path the loaded library was opened by, or NULL.
const char *cnixl_loaded_path(void);

#endif
