"""RemoteG2Connector with a worker half that fails when it is told to: for scenes only.

While the file REMOTE_G2_FAULT is there, the ranks that it names are promised another generation of the blocks that it
names (so that the library's own check finds them wrong), and their pages are overwritten first, as by a copy that was
torn. What was done is written beside it."""

import json
import os
import struct
from pathlib import Path

from remote_g2.vllm import Plan, RemoteG2Connector

FAULT = Path(os.environ.get("REMOTE_G2_FAULT", "/nonexistent"))


def spoil(plan, places, pages):
    """The plan with other generations at these places of each load. How many were changed."""
    plan, changed = bytearray(plan), 0
    at = 4 + 8 + 16
    at += 17 if plan[at] else 1
    (loads,) = struct.unpack_from("<I", plan, at)
    at += 4
    for _ in range(loads):
        at += 8 + 16
        (moves,) = struct.unpack_from("<I", plan, at)
        at += 4
        for place in range(moves):
            target, _, generation = struct.unpack_from("<iiI", plan, at)
            if places == "all" or place in places:
                struct.pack_into("<I", plan, at + 8, generation ^ 0x40000000)
                for tensor in pages:
                    tensor[target] = 7e4
                changed += 1
            at += 12
    return bytes(plan), changed


class FaultyConnector(RemoteG2Connector):
    def register_kv_caches(self, kv_caches):
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        super().register_kv_caches(kv_caches)
        self._rank = get_tensor_model_parallel_rank()
        self._pages = list(kv_caches.values())

    def bind_connector_metadata(self, connector_metadata):
        try:
            fault = json.loads(FAULT.read_text())
        except (OSError, ValueError):
            fault = None
        if fault and self._rank in fault["ranks"] and connector_metadata.plan:
            plan, changed = spoil(connector_metadata.plan, fault["places"], self._pages)
            if changed:
                connector_metadata = Plan(plan, connector_metadata.requests)
                with FAULT.with_suffix(".log").open("a") as log:
                    log.write(f"rank {self._rank} {changed}\n")
        super().bind_connector_metadata(connector_metadata)
