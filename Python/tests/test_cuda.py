"""libremote_g2's device part on a real NVIDIA GPU, beside real nodes. Where there is none, nothing is tested."""

import ctypes
import mmap
import os
import random
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

import test_library
from remote_g2 import library
from test_library import ROOT, TOKENS, hashes

try:
    import torch

    HAS_GPU = torch.cuda.is_available()
except ImportError:
    HAS_GPU = False

LAYERS, BLOCKS = 4, 64
# Of one block's keys, or values, in one layer.
HALF = 48 << 10


class GPUEngine(test_library.Engine):
    """Pages as FlashAttention has them: of each layer all keys first, then all values."""

    def __init__(self, socket):
        self.model = test_library.model(block_bytes=2 * LAYERS * HALF)
        self.pages = torch.zeros((LAYERS, 2, BLOCKS, HALF), dtype=torch.uint8, device="cuda")
        layers = [
            library.Layer(base=self.pages[layer, half].data_ptr(), stride=HALF, bytes=HALF)
            for layer in range(LAYERS)
            for half in range(2)
        ]
        self.device = library.CudaDevice(0, torch.cuda.current_stream().cuda_stream)
        self.scheduler = library.Scheduler(self.model, socket)
        self.rank = library.Rank(self.model, socket, 0, layers, BLOCKS, self.device)

    def compute(self, block, seed):
        """By the GPU, on its stream, without waiting for it."""
        chance = torch.Generator(device="cuda").manual_seed(seed)
        self.pages[:, :, block] = torch.randint(
            0, 256, (LAYERS, 2, HALF), generator=chance, dtype=torch.uint8, device="cuda"
        )

    def close(self):
        super().close()
        self.device.close()


@unittest.skipUnless(HAS_GPU, "there is no GPU")
class OnAGPU(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="rg2-gpu-")
        os.chmod(cls.folder.name, 0o700)
        ports = random.sample(range(20000, 30000, 10), 2)
        cls.nodes = {}
        for place, name in enumerate("ab"):
            other = "ba"[place]
            # Less than two prompts' blocks, so that a new one takes the old one's slots.
            arguments = ["--name", name, "--listen", f"127.0.0.1:{ports[place]}", "--memory", "16MiB"]
            arguments += ["--member", f"{other}=127.0.0.1:{ports[1 - place]}"]
            cls.nodes[name] = subprocess.Popen(
                [os.environ.get("REMOTE_G2_PROGRAM", ROOT / ".build/release/remote-g2"), "node"]
                + arguments
                + ["--run-dir", cls.folder.name],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert b"ready" in cls.nodes[name].stdout.readline()

    @classmethod
    def tearDownClass(cls):
        for node in cls.nodes.values():
            node.send_signal(signal.SIGTERM)
            node.wait(10)
            node.stdout.close()
        cls.folder.cleanup()

    def engine(self, name):
        engine = GPUEngine(f"{self.folder.name}/{name}.node")
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.step()
        return engine

    def test_blocks_of_one_gpu_engine_are_another_ones_byte_by_byte_over_two_nodes(self):
        near, far = self.engine("a"), self.engine("b")
        names = hashes(16, b"gpu")
        for block in range(16):
            near.compute(block, block)
        near.save(names)
        self.assertTrue(far.until(lambda: far.is_ready(names, 16)))
        # Neighbours, strangers and a gap: strided copies of every kind.
        targets = [40, 41, 42, 43, 7, 9, 11, 3, 50, 51, 20, 19, 18, 60, 61, 62]
        far.scheduler.bind(2, 0, targets)
        self.assertEqual(far.step(), ([2], []))
        torch.cuda.synchronize()
        for block, target in enumerate(targets):
            self.assertTrue(torch.equal(far.pages[:, :, target], near.pages[:, :, block]), block)
        untouched = [block for block in range(BLOCKS) if block not in targets]
        self.assertEqual(int(far.pages[:, :, untouched].count_nonzero()), 0)
        near.close()
        far.close()

    def test_pages_that_the_gpu_still_computes_are_staged_as_they_will_be(self):
        engine = self.engine("a")
        names = hashes(4, b"late")
        torch.cuda.synchronize()
        # A second of other work stands before it in the stream.
        torch.cuda._sleep(1_500_000_000)
        for block in range(4):
            engine.compute(block, 100 + block)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4)))
        engine.scheduler.bind(2, 0, [8, 9, 10, 11])
        self.assertEqual(engine.step(), ([2], []))
        torch.cuda.synchronize()
        for block in range(4):
            self.assertTrue(torch.equal(engine.pages[:, :, 8 + block], engine.pages[:, :, block]))
            self.assertGreater(int(engine.pages[:, :, 8 + block].count_nonzero()), HALF)
        engine.close()

    def test_pages_that_the_gpu_still_writes_are_loaded_after_it(self):
        engine = self.engine("a")
        names = hashes(4, b"early")
        for block in range(4):
            engine.compute(block, 400 + block)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4)))
        engine.scheduler.bind(2, 0, [8, 9, 10, 11])
        # The last kernel of the request that had these pages before is still to come.
        torch.cuda._sleep(1_500_000_000)
        engine.pages[:, :, 8:12] = 77
        self.assertEqual(engine.step(), ([2], []))
        torch.cuda.synchronize()
        for block in range(4):
            self.assertTrue(torch.equal(engine.pages[:, :, 8 + block], engine.pages[:, :, block]))
        engine.close()

    def test_slots_that_were_taken_for_others_meanwhile_are_errors(self):
        engine = self.engine("a")
        names = hashes(8, b"evicted")
        for block in range(8):
            engine.compute(block, 200 + block)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 8)))
        engine.scheduler.bind(2, 0, list(range(8, 16)))
        plan = engine.scheduler.plan(0)
        engine.rank.begin(plan)
        # Its scheduler half dies; another engine's blocks take all slots.
        engine.scheduler.close()
        other = self.engine("a")
        for round in range(3):
            for block in range(32):
                other.compute(block, 300 + block)
            for first in range(0, 32, 8):
                other.save(hashes(8, b"other %d %d" % (round, first)))
        engine.rank.load()
        self.assertEqual(sorted(engine.rank.load_errors()), list(range(8, 16)))
        other.close()
        engine.rank.close()
        engine.device.close()

    def test_memory_that_is_mapped_for_reading_is_registered_and_stays_unwritten(self):
        size = 8 << 20
        descriptor = os.memfd_create("pool")
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, bytes(range(256)) * (size // 256), 0)
        read_only = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        base = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, read_only, 0)
        device = library.CudaDevice(0, None)
        functions = library._Device.from_address(device.handle)
        status = functions.map(functions.context, base, size, 1)
        print(f"\nregistering a read-only mapping: CUDA result {status}", flush=True)
        self.assertEqual(status, 0)
        target = torch.zeros((64, 4096), dtype=torch.uint8, device="cuda")
        rows = library.Copy(target.data_ptr(), base + 256, 1024, 32, 8192, 65536)
        self.assertEqual(functions.copy(functions.context, ctypes.pointer(rows), 1, 1), 0)
        torch.cuda.synchronize()
        expected = torch.tensor(list(range(256)) * 4, dtype=torch.uint8, device="cuda")
        self.assertTrue(all(torch.equal(target[2 * row, :1024], expected) for row in range(32)))
        self.assertEqual(int(target[1::2].count_nonzero()), 0)
        # The other way is refused, by CUDA or by the memory's protection; nothing is written.
        target.fill_(7)
        torch.cuda.synchronize()
        child = os.fork()
        if child == 0:
            # A driver call after a fork is not allowed: only the protection itself is tried there.
            try:
                ctypes.memset(base, 7, 1)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), -signal.SIGSEGV)
        refused = functions.copy(functions.context, ctypes.pointer(rows), 1, 0)
        print(f"writing to it: CUDA result {refused}", flush=True)
        self.assertEqual(os.pread(descriptor, 1024, 256), bytes(range(256)) * 4)
        functions.unmap(functions.context, base)
        device.close()


if __name__ == "__main__":
    unittest.main()
