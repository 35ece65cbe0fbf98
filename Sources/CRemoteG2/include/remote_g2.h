#ifndef REMOTE_G2_H
#define REMOTE_G2_H

// libremote_g2: what an engine that owns its KV memory itself loads to share prefix blocks with the node of its
// host, and through it with every other node.
//
// An engine has one scheduler half, in the process that schedules, and one worker half for each tensor-parallel
// rank, in the process that owns that rank's pages. They talk only through the engine: each step the scheduler
// half makes a plan, the engine gives it to every rank, and gives the ranks' reports back.
//
//   arrival            rg2_scheduler_new_request          each step, on each rank
//   scheduling         rg2_scheduler_match, _bind           rg2_rank_begin(plan)
//   end of scheduling  rg2_scheduler_scheduled, _plan       rg2_rank_load    copies in what the plan loads
//   after the ranks    rg2_scheduler_absorb(reports)        the forward pass
//   leaving            rg2_scheduler_finished               rg2_rank_stage   copies out what it computed
//                                                           rg2_rank_finished, _load_errors, _report
//
// Threads: each handle is used by one thread at a time. Nothing is called back but an rg2_device. Every handle
// belongs to the process that opened it: in a forked child every function that takes a handle fails with RG2_FORKED,
// and an rg2_cuda_open's device is of no use there, as CUDA is not.
// Waiting: no function waits for another machine. What may wait at all says so, and for how long.
// Memory: everything passed in is the caller's and is not kept, but for the pages of rg2_rank_open. What a
// function returns a pointer to stays valid until the next call with that handle.
// Blocks are numbered as the engine numbers them; sizes are in bytes.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Of this interface. A caller compares it before anything else and refuses what it was not made for.
#define RG2_ABI_VERSION 2

enum rg2_status {
  RG2_OK = 0,
  // The arguments make no sense; rg2_error says which.
  RG2_INVALID = -1,
  // The handle was opened by another process.
  RG2_FORKED = -2,
};

enum rg2_match {
  // Nothing more to load: compute.
  RG2_NONE = 0,
  // `blocks` blocks can be loaded.
  RG2_READY = 1,
  // It is being fetched: ask again in a later step.
  RG2_PENDING = 2,
};

// What all engines that share blocks have in common. Texts are compared as they are.
typedef struct rg2_model {
  const char *model;        // a digest or a name with a revision
  const char *layout;       // of a block: page layout, heads, types
  const char *hash_scheme;  // of the engine's block hashes, with its root
  const char *numerics;     // engine version and attention backend
  uint64_t weight_epoch;    // rises with every change of the weights
  uint32_t rank_count;      // tensor-parallel ranks
  uint32_t tokens_per_block;
  uint64_t block_bytes;     // of one block on one rank, over all layers
} rg2_model;

// Where one layer's pages are: in host memory, or in that of the device given to rg2_rank_open. A layer whose
// keys and values are apart is two of these.
typedef struct rg2_layer {
  void *base;        // the page of block 0
  uint64_t stride;   // from one block's page to the next one's
  uint64_t bytes;    // of a page
} rg2_layer;

// Rows of bytes between a device's memory and this process's.
typedef struct rg2_copy {
  void *device;
  void *host;
  uint64_t bytes;    // of a row
  uint64_t rows;
  uint64_t device_stride, host_stride;  // from one row to the next one
} rg2_copy;

// What copies pages that the processor cannot reach: the engine's own, or rg2_cuda_open's.
typedef struct rg2_device {
  void *context;
  // Makes memory of this process reachable for the device; with `is_read_only` the process has it mapped for
  // reading, and so must the device. 0: done. Otherwise it is copied from and to all the same, more slowly.
  // It and `unmap` are called on threads of the library's own, because a large pool takes a while.
  int32_t (*map)(void *context, void *base, uint64_t bytes, int32_t is_read_only);
  // Nothing is copied from or to it any more. The memory is still there.
  void (*unmap)(void *context, void *base);
  // Carries out all copies, to the device or from it, and returns when the last byte is there: 0. Otherwise
  // none of them counts. Copies begin after what the engine has computed so far: pages that are loaded may have
  // been another request's. On the rank's thread.
  int32_t (*copy)(void *context, const rg2_copy *copies, uint32_t count, int32_t is_to_device);
} rg2_device;

typedef struct rg2_counts {
  uint64_t asked, ready, none, late;
  uint64_t loads, loads_failed, blocks_bound;
  uint64_t blocks_committed, stages_dropped, saves_lost;
} rg2_counts;

uint32_t rg2_version(void);

// Why the last call of this thread failed.
const char *rg2_error(void);

// ---- The scheduler half ----

// `socket` is the path of the node's socket; the node need not be there. Starts one thread, which blocks all
// signals. Returns NULL for arguments that make no sense.
void *rg2_scheduler_open(const rg2_model *model, const char *socket);

// Ends the thread and the connection. Waits for the thread, which waits for nothing.
void rg2_scheduler_close(void *scheduler);

// A request arrived. `hashes` are the engine's hashes of its whole blocks, one after another, of `hash_bytes`
// (16 or more) bytes each.
int rg2_scheduler_new_request(void *scheduler, uint64_t request, const uint8_t *hashes,
                              uint32_t count, uint32_t hash_bytes);

// How many blocks can be loaded beyond the first `local` ones; `most` may be loaded in all. Waits for a first
// word of the node for at most 200 microseconds a step, over all requests. Returns an rg2_match or an error.
int rg2_scheduler_match(void *scheduler, uint64_t request, uint32_t local, uint32_t most,
                        uint32_t *blocks);

// The request is scheduled. `targets` are the blocks that its next blocks are loaded into; with none, it
// computes them.
int rg2_scheduler_bind(void *scheduler, uint64_t request, uint32_t local, const int32_t *targets,
                       uint32_t count);

// The request is computed in the step being planned: `computed` tokens have their KV before it, `scheduled`
// get it in it. `hashes` are those of whole blocks that were not told before. `blocks` are the blocks that are
// new, or, with `is_whole`, all of them. Returns 1 where the request's next step is to be told whatever it is, 0
// where one that brings neither hashes nor blocks need not be told, or an error.
int rg2_scheduler_scheduled(void *scheduler, uint64_t request, uint32_t computed,
                            uint32_t scheduled, const uint8_t *hashes, uint32_t hash_count,
                            uint32_t hash_bytes, const int32_t *blocks, uint32_t block_count,
                            int is_whole);

// The step's plan, for every rank; `tokens` are computed in it. A step about which nothing was told needs none.
// NULL: error.
const uint8_t *rg2_scheduler_plan(void *scheduler, uint32_t tokens, size_t *length);

// What all ranks reported of one step, if its plan ordered something.
int rg2_scheduler_absorb(void *scheduler, const uint8_t *const *reports, const size_t *lengths,
                         uint32_t count);

// The request has left the engine. Unknown requests are ignored.
int rg2_scheduler_finished(void *scheduler, uint64_t request);

// Sleeps until the node says something, at most `microseconds`.
int rg2_scheduler_wait(void *scheduler, uint64_t microseconds);

// Requests whose prefix is being fetched, or an error.
int rg2_scheduler_pending(void *scheduler);

// Whether the node is there: 1 or 0, or an error.
int rg2_scheduler_attached(void *scheduler);

int rg2_scheduler_counts(void *scheduler, rg2_counts *counts);

// ---- The worker half of one rank ----

// `layers` say where the engine's pages are; they stay there until the handle is closed. NULL for arguments
// that make no sense.
// `device` copies them; NULL: they are in host memory. It is the caller's, and stays until the handle is closed.
void *rg2_rank_open(const rg2_model *model, const char *socket, uint32_t rank,
                    const rg2_layer *layers, uint32_t layer_count, uint64_t block_count,
                    const rg2_device *device);

// Waits until the device, if there is one, has let all memory go.
void rg2_rank_close(void *rank);

// Takes a step's plan. Connects to the node where it must, and then waits for it for at most 100 ms.
int rg2_rank_begin(void *rank, const uint8_t *plan, size_t length);

// Copies in what the plan loads, before it returns. Each copy counts only if the block was what it was
// promised to be before and after it, whoever has carried it out.
int rg2_rank_load(void *rank);

// Copies out what the plan stages: after the step has computed it, and before the engine may change it.
int rg2_rank_stage(void *rank);

// Requests whose loads have ended since the last call, well or not. Returns how many there are, of which at most
// `capacity` are written; those that are not are told next time.
int rg2_rank_finished(void *rank, uint64_t *requests, uint32_t capacity);

// Blocks that could not be loaded, as rg2_rank_finished.
int rg2_rank_load_errors(void *rank, int32_t *blocks, uint32_t capacity);

// What was done of the step's plan, for the scheduler half. Of length 0 where the plan ordered nothing, and then on
// every rank: there is nothing to absorb of that step. NULL: error.
const uint8_t *rg2_rank_report(void *rank, size_t *length);

// ---- CUDA ----

// The device part for NVIDIA GPUs, over the driver's libcuda.so.1, which is loaded by the first call. `stream` is
// the engine's compute stream (a CUstream; NULL: the default one): copies from the device take their turn in it.
// Copies to the device have a stream of their own, and wait for what is in that one by then. NULL, with rg2_error: there is no such GPU.
rg2_device *rg2_cuda_open(int32_t ordinal, void *stream);

void rg2_cuda_close(rg2_device *device);

#ifdef __cplusplus
}
#endif

#endif
