"""How fast a rank loads blocks onto a GPU, beside plain copies of the same bytes: run it where there is a GPU."""

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Python"), str(ROOT / "Python/tests")]

import test_cuda  # noqa: E402
from test_library import hashes  # noqa: E402

ROUNDS, COUNT = 15, 48


def seconds(call):
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main():
    test_cuda.HALF, test_cuda.LAYERS = 64 << 10, 32
    folder = tempfile.TemporaryDirectory(prefix="rg2-gpu-")
    os.chmod(folder.name, 0o700)
    program = os.environ.get("REMOTE_G2_PROGRAM", ROOT / ".build/release/remote-g2")
    port = random.randrange(20000, 30000, 10)
    node = subprocess.Popen(
        [program, "node", "--name", "n", "--listen", f"127.0.0.1:{port}"]
        + ["--memory", "1GiB", "--run-dir", folder.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert b"ready" in node.stdout.readline()
    engine = test_cuda.GPUEngine(f"{folder.name}/n.node")
    assert engine.until(lambda: engine.scheduler.attached)
    began = time.perf_counter()
    engine.step()
    print(f"attach: {time.perf_counter() - began:.3f} s, registering goes on beside it")
    names = hashes(COUNT, b"bench")
    size = COUNT * engine.model.block_bytes
    for first in range(0, COUNT, 8):
        # Staging holds a few blocks at once.
        for block in range(8):
            engine.compute(block, first + block)
        engine.scheduler.new_request(1, names[: first + 8])
        engine.until(lambda: engine.scheduler.match(1, 0, first + 8)[0] not in (2,))
        engine.scheduler.bind(1, 0, [])
        engine.scheduler.scheduled(
            1, first * 16, 128, [], [8] * first + list(range(8)), True)
        stage = seconds(lambda: engine.step(128))
        engine.scheduler.finished(1)
        assert engine.until(lambda: engine.is_ready(names, first + 8)), first
    print(f"stage of 8 blocks, whole step: {stage * 1e3:.2f} ms, {8 * engine.model.block_bytes / stage / 1e9:.1f} GB/s")
    time.sleep(3)  # by now the pool is registered
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    plain = torch.empty(size, dtype=torch.uint8)
    plain.fill_(3)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    ours, best, pageable = [], [], []
    for _ in range(ROUNDS):
        assert engine.until(lambda: engine.is_ready(names, COUNT))
        engine.scheduler.bind(2, 0, list(range(COUNT)))
        plan = engine.scheduler.plan(0)
        engine.rank.begin(plan)
        ours.append(seconds(engine.rank.load))
        assert not engine.rank.load_errors()
        engine.rank.finished()
        engine.scheduler.absorb([engine.rank.report()])
        best.append(seconds(lambda: target.copy_(pinned, non_blocking=True)))
        pageable.append(seconds(lambda: target.copy_(plain)))
    rates = [size / statistics.median(times) / 1e9 for times in (ours, best, pageable)]
    print(
        f"load of {COUNT} blocks of {engine.model.block_bytes >> 10} KiB in {2 * test_cuda.LAYERS} pieces each: "
        f"{rates[0]:.1f} GB/s; one plain copy from pinned memory {rates[1]:.1f} (ratio {rates[0] / rates[1]:.2f}), "
        f"from memory that is not {rates[2]:.1f} ({rates[0] / rates[2]:.2f})"
    )
    engine.close()
    node.send_signal(signal.SIGTERM)
    node.wait(10)


main()
