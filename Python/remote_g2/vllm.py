"""RemoteG2Connector: vLLM's KV connector interface, translated for libremote_g2.

Started with
    --kv-transfer-config '{"kv_connector": "RemoteG2Connector", "kv_connector_module_path": "remote_g2.vllm",
                           "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}'
Nothing is decided here: what is asked, loaded, staged and committed is the library's business.
"""

import secrets
from dataclasses import dataclass, field

from vllm import __version__ as vllm_version
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.logger import init_logger

from . import fingerprint, library

logger = init_logger("vllm.remote_g2")

# Between two looks while nothing can be computed: the first of a wait, and later ones.
NAP_FIRST, NAP_MAX = 0.002, 0.010


@dataclass
class Plan(KVConnectorMetadata):
    """A step's plan, as the library made it; empty for a step that it was told nothing about."""

    plan: bytes
    requests: dict[int, str] = field(default_factory=dict)


@dataclass
class Reports(KVConnectorWorkerMetadata):
    """What ranks did of a plan, as the library reports it."""

    reports: list[bytes]

    def aggregate(self, other):
        return Reports(self.reports + other.reports)


class RemoteG2Connector(KVConnectorBase_V1):
    """One of its two halves, by the role it is made for."""

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        fingerprint.check(vllm_config, kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config or {}
        self._socket = library.node_socket(extra.get("socket"), extra.get("node"))
        self._model = fingerprint.model(vllm_config, kv_cache_config, vllm_version)
        self._half = None
        if role == KVConnectorRole.SCHEDULER:
            self._half = SchedulerHalf(self._model, self._socket)

    @property
    def requires_kv_delivery(self):
        return False

    # The scheduler half.

    def on_new_request(self, request):
        self._half.on_new_request(request)

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        return self._half.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        self._half.bind(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output):
        return self._half.plan(scheduler_output)

    def update_connector_output(self, connector_output):
        meta = connector_output.kv_connector_worker_meta
        if meta is not None:
            self._half.library.absorb(meta.reports)

    def reset_cache(self):
        self._half.reset()
        return True

    def request_finished(self, request, block_ids):
        self._half.finished(request)
        return False, None

    # The worker half of one rank.

    def register_kv_caches(self, kv_caches):
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        layers, block_count = fingerprint.layers(kv_caches)
        self._half = WorkerHalf(
            library.Rank(
                self._model, self._socket, get_tensor_model_parallel_rank(), layers, block_count
            )
        )

    def bind_connector_metadata(self, connector_metadata):
        super().bind_connector_metadata(connector_metadata)
        self._half.begin(connector_metadata)

    def start_load_kv(self, forward_context, **kwargs):
        self._half.load()

    def wait_for_layer_load(self, layer_name):
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass

    def wait_for_save(self):
        self._half.stage()

    def get_finished(self, finished_req_ids):
        return None, self._half.finished()

    def get_block_ids_with_load_errors(self):
        return self._half.errors()

    def build_connector_worker_meta(self):
        return self._half.reports()

    def shutdown(self):
        if self._half is not None:
            self._half.library.close()
            self._half = None


class SchedulerHalf:
    """Requests by number, and the scheduler's calls in the library's words."""

    def __init__(self, model, socket):
        self.library = library.Scheduler(model, socket)
        self._model, self._socket = model, socket
        self._tokens_per_block = model.tokens_per_block
        self._numbers = {}
        self._requests = {}
        self._next = 1
        self._has_bound = False
        self._nap = NAP_FIRST
        # By number: the blocks that the engine had when it was last asked.
        self._local = {}
        # Loads of the step that is being planned.
        self._loading = {}
        # Whether the library was told anything since its last plan, and of which requests it hears of every step.
        self._has_told = True
        self._followed = set()
        # Once its weights may be others than those that blocks in the engine's own cache were computed with.
        self._is_renewed = False

    def on_new_request(self, request):
        if getattr(request, "skip_reading_prefix_cache", False):
            return
        # Their content is not in the block hashes by content.
        if request.lora_request is not None or getattr(request, "mm_features", None):
            return
        if getattr(request, "prompt_embeds", None) is not None:
            return
        number, self._next = self._next, self._next + 1
        hashes = list(request.block_hashes)
        self._numbers[request.request_id] = number
        self._requests[number] = [request, len(hashes)]
        self._has_told = True
        self.library.new_request(number, hashes)

    def match(self, request, num_computed_tokens):
        number = self._numbers.get(request.request_id)
        if number is None:
            return 0, False
        self._has_told = True
        local = num_computed_tokens // self._tokens_per_block
        self._local[number] = local
        most = (request.num_tokens - 1) // self._tokens_per_block
        answer, blocks = self.library.match(number, local, most)
        if answer == library.PENDING:
            return None, False
        return blocks * self._tokens_per_block, answer == library.READY

    def bind(self, request, blocks, num_external_tokens):
        number = self._numbers.get(request.request_id)
        # One that loads nothing is told as scheduled, where it is told at all.
        if number is None or not (num_external_tokens or self._is_renewed):
            return
        local = self._local.get(number, 0)
        targets = []
        if num_external_tokens:
            end = local + num_external_tokens // self._tokens_per_block
            targets = list(blocks.get_block_ids()[0][local:end])
            self._loading[number] = request.request_id
            self._has_bound = True
        self._has_told = True
        self.library.bind(number, local, targets)

    def plan(self, output):
        for new in output.scheduled_new_reqs:
            self._scheduled(
                new.req_id, new.num_computed_tokens, output, list(new.block_ids[0]), True
            )
        cached = output.scheduled_cached_reqs
        resumed = cached.resumed_req_ids
        for place, request_id in enumerate(cached.req_ids):
            blocks = cached.new_block_ids[place]
            self._scheduled(
                request_id,
                cached.num_computed_tokens[place],
                output,
                list(blocks[0]) if blocks else [],
                request_id in resumed,
            )
        self._nap_while_pending(output)
        self._has_bound = False
        # Most steps of decoding bring nothing that the library would order anything for.
        if not self._has_told and output.total_num_scheduled_tokens:
            return Plan(b"")
        self._has_told = False
        plan = self.library.plan(output.total_num_scheduled_tokens)
        requests, self._loading = self._loading, {}
        return Plan(plan, requests)

    def _scheduled(self, request_id, computed, output, blocks, is_whole):
        number = self._numbers.get(request_id)
        if number is None:
            return
        # What it found in the engine's own cache may rest on older weights, and so what follows it.
        if self._is_renewed and self._local.get(number):
            return
        entry = self._requests[number]
        hashes = list(entry[0].block_hashes[entry[1] :])
        if not (hashes or blocks or is_whole or number in self._followed):
            return
        entry[1] += len(hashes)
        self._has_told = True
        scheduled = output.num_scheduled_tokens[request_id]
        if self.library.scheduled(number, computed, scheduled, hashes, blocks, is_whole):
            self._followed.add(number)
        else:
            self._followed.discard(number)

    def _nap_while_pending(self, output):
        """An engine with nothing to compute but a prefix on its way need not spin."""
        if output.total_num_scheduled_tokens or self._has_bound or not self.library.pending:
            self._nap = NAP_FIRST
            return
        self.library.wait(self._nap)
        self._nap = min(self._nap * 1.5, NAP_MAX)

    def reset(self):
        """Its weights may be others from now on: nothing that was computed before is loaded or saved any more."""
        logger.warning(
            "the cache was reset with its external part: until this engine is started again it shares only what it "
            "computes from now on, and only with itself, because its weights may be others than its model's; and "
            "nothing if its node has no memory left for another pool"
        )
        self._is_renewed = True
        self.library.close()
        # Like that of no other engine, and of no other reset.
        self._model.weight_epoch = secrets.randbits(63) | 1
        self.library = library.Scheduler(self._model, self._socket)
        for kept in (self._numbers, self._requests, self._local, self._followed, self._loading):
            kept.clear()
        self._has_told = True

    def finished(self, request):
        number = self._numbers.pop(request.request_id, None)
        if number is not None:
            del self._requests[number]
            self._local.pop(number, None)
            self._followed.discard(number)
            self._has_told = True
            self.library.finished(number)


class WorkerHalf:
    """Loads by number, and the worker's calls in the library's words."""

    def __init__(self, rank):
        self.library = rank
        self._loading = {}
        self._has_plan = False

    def begin(self, plan):
        self._has_plan = bool(plan.plan)
        if self._has_plan:
            self._loading.update(plan.requests)
            self.library.begin(plan.plan)

    def load(self):
        if self._has_plan:
            self.library.load()

    def stage(self):
        if self._has_plan:
            self.library.stage()

    def finished(self):
        if not self._has_plan:
            return None
        numbers = self.library.finished()
        return {self._loading.pop(number) for number in numbers} or None

    def errors(self):
        return set(self.library.load_errors()) if self._has_plan else set()

    def reports(self):
        if not self._has_plan:
            return None
        report = self.library.report()
        return Reports([report]) if report else None
