"""RemoteG2Connector whose scheduler half writes down what it costs: for scenes only."""

import json
import os
import time

from remote_g2.vllm import RemoteG2Connector

TIMES = os.environ.get("REMOTE_G2_TIMES", "/dev/null")


def turns(count):
    """A plain loop, and by the clock how many seconds it took."""
    began = time.perf_counter()
    for _ in range(count):
        pass
    return time.perf_counter() - began


class TimedConnector(RemoteG2Connector):
    """A line of JSON for each step: microseconds in the connector without its nap, tokens, requests that wait; and
    for each request that ends how often it was told to ask again."""

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        self._spent, self._again, self._lines = 0.0, {}, []
        # The processor time in it, which other threads' is not part of, and nor is waiting; and all of it by call.
        # Both clocks are read in less than a microsecond: what takes longer, such as a file of /proc, leaves the
        # processor's caches without what the next call needs.
        self._own, self._parts = 0.0, {}
        # By request: when it came, and after how many milliseconds it was known what it loads.
        self._came, self._decided = {}, {}
        # When it was last told to ask again: from then on it waits for its turn in the engine, not for its prefix.
        self._kept = {}
        if self._half is None:
            return
        # Of a plain loop that takes 150 us on a processor of its own: what the clock makes of so little work here.
        self._turns = int(1000 * 150e-6 / min(turns(1000) for _ in range(50)))
        wait, self._napped, self._napped_own = self._half.library.wait, 0.0, 0.0

        def nap(seconds):
            began, own = time.perf_counter(), time.thread_time()
            wait(seconds)
            self._napped_own += time.thread_time() - own
            self._napped += time.perf_counter() - began

        self._half.library.wait = nap

    def _timed(self, call, *arguments):
        own, began = time.thread_time(), time.perf_counter()
        try:
            return call(*arguments)
        finally:
            spent = time.perf_counter() - began
            self._own += time.thread_time() - own
            self._spent += spent
            name = call.__name__
            self._parts[name] = self._parts.get(name, 0.0) + spent

    def on_new_request(self, request):
        self._came[request.request_id] = time.perf_counter()
        self._timed(super().on_new_request, request)

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        answer = self._timed(super().get_num_new_matched_tokens, request, num_computed_tokens)
        again = self._again.setdefault(request.request_id, 0)
        if answer[0] is None:
            self._again[request.request_id] = again + 1
            self._kept[request.request_id] = time.perf_counter() - self._came.get(request.request_id, 0.0)
        elif request.request_id not in self._decided:
            waited = time.perf_counter() - self._came.get(request.request_id, 0.0)
            self._decided[request.request_id] = waited * 1e3
        return answer

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        self._timed(super().update_state_after_alloc, request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output):
        plan = self._timed(super().build_connector_meta, scheduler_output)
        spent, self._spent = self._spent - self._napped, 0.0
        self._napped = 0.0
        own, self._own = self._own - self._napped_own, 0.0
        self._napped_own = 0.0
        parts, self._parts = self._parts, {}
        tokens = scheduler_output.total_num_scheduled_tokens
        line = {"us": spent * 1e6, "own_us": own * 1e6, "tokens": tokens, "at": time.monotonic()}
        if tokens:
            line["plain_us"] = turns(self._turns) * 1e6
        line["parts_us"] = {name: value * 1e6 for name, value in parts.items()}
        self._write(line | {"pending": self._half.library.pending})
        return plan

    def update_connector_output(self, connector_output):
        self._timed(super().update_connector_output, connector_output)

    def request_finished(self, request, block_ids):
        again = self._again.pop(request.request_id, None)
        self._came.pop(request.request_id, None)
        decided = self._decided.pop(request.request_id, None)
        kept = self._kept.pop(request.request_id, 0.0) * 1e3
        self._write(
            {"request": request.request_id, "again": again, "decided_ms": decided, "kept_ms": kept}
        )
        return self._timed(super().request_finished, request, block_ids)

    def wait_for_save(self):
        began = time.perf_counter()
        super().wait_for_save()
        spent = time.perf_counter() - began
        if spent > 100e-6:
            self._write({"request": None, "stage_us": spent * 1e6})

    def _write(self, line):
        self._lines.append(json.dumps(line))
        # Outside of what is timed.
        if "request" in line or len(self._lines) >= 200:
            with open(TIMES, "a") as file:
                file.write("\n".join(self._lines) + "\n")
            self._lines = []
