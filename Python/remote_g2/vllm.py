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

from . import fingerprint, library, native

logger = init_logger("vllm.remote_g2")

# Between two looks while nothing can be computed: the first of a wait, and later ones.
NAP_FIRST, NAP_MAX = 0.002, 0.010


@dataclass
class Plan(KVConnectorMetadata):
    """A step's plan, as the library made it; empty for a step that it was told nothing about."""

    plan: bytes
    requests: dict[int, str] = field(default_factory=dict)


# Of a step about which the library was told nothing: most steps of decoding.
NOTHING = Plan(b"")


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
        self._half.calls.new_request(request)

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        return self._half.calls.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        self._half.calls.bind(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output):
        return self._half.plan(scheduler_output)

    def update_connector_output(self, connector_output):
        meta = connector_output.kv_connector_worker_meta
        if meta is not None:
            self._half.calls.absorb(meta.reports)

    def reset_cache(self):
        self._half.reset()
        return True

    def request_finished(self, request, block_ids):
        self._half.calls.finished(request)
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
            self._half.close()
            self._half = None


class SchedulerHalf:
    """The scheduler's calls, most of which are translated in C: after a forward pass Python costs many times more."""

    def __init__(self, model, socket):
        self._model, self._socket = model, socket
        self._nap = NAP_FIRST
        self.calls = None
        self._open()

    def _open(self):
        self.library = library.Scheduler(self._model, self._socket)
        self.calls = native.translator(self.library, self._model.tokens_per_block, after=self.calls)

    def close(self):
        self.calls.forget()
        self.library.close()

    def plan(self, output):
        if output.total_num_scheduled_tokens:
            self._nap = NAP_FIRST
        else:
            self._nap_while_pending()
        found = self.calls.plan(output)
        return NOTHING if found is None else Plan(*found)

    def _nap_while_pending(self):
        """An engine with nothing to compute but a prefix on its way need not spin."""
        if self.calls.has_bound or not self.library.pending:
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
        self.close()
        # Like that of no other engine, and of no other reset.
        self._model.weight_epoch = secrets.randbits(63) | 1
        self._open()


class WorkerHalf:
    """Loads by number, and the worker's calls in the library's words."""

    def __init__(self, rank):
        self.library = rank
        self._loading = {}
        self._has_plan = False

    def close(self):
        self.library.close()

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
