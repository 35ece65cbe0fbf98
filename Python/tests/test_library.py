"""libremote_g2 through its C interface, beside a real node: python3 -m unittest discover Python/tests"""

import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Python"))

from remote_g2 import library  # noqa: E402

LAYERS, PAGE, BLOCKS, TOKENS = 3, 4096, 16, 16


def model(**changes):
    fields = {
        "model": b"m",
        "layout": b"l",
        "hash_scheme": b"h",
        "numerics": b"n",
        "weight_epoch": 0,
        "rank_count": 1,
        "tokens_per_block": TOKENS,
        "block_bytes": LAYERS * PAGE,
    }
    return library.Model(**{**fields, **changes})


class Engine:
    """An engine of one rank, whose pages are bytes of this process."""

    def __init__(self, socket, device=None):
        self.memory = ctypes.create_string_buffer(LAYERS * BLOCKS * PAGE)
        base = ctypes.addressof(self.memory)
        layers = [
            library.Layer(base=base + layer * BLOCKS * PAGE, stride=PAGE, bytes=PAGE)
            for layer in range(LAYERS)
        ]
        self.scheduler = library.Scheduler(model(), socket)
        self.rank = library.Rank(model(), socket, 0, layers, BLOCKS, device)

    def fill(self, block, value):
        for layer in range(LAYERS):
            start = (layer * BLOCKS + block) * PAGE
            self.memory[start : start + PAGE] = bytes([value + layer]) * PAGE

    def holds(self, block, value):
        return all(
            self.memory[(layer * BLOCKS + block) * PAGE : (layer * BLOCKS + block + 1) * PAGE]
            == bytes([value + layer]) * PAGE
            for layer in range(LAYERS)
        )

    def step(self, tokens=0):
        self.rank.begin(self.scheduler.plan(tokens))
        self.rank.load()
        self.rank.stage()
        finished, errors = self.rank.finished(), self.rank.load_errors()
        report = self.rank.report()
        if report:
            self.scheduler.absorb([report])
        return finished, errors

    def until(self, check):
        deadline = time.monotonic() + 10
        while not check():
            if time.monotonic() > deadline:
                return False
            self.step()
            self.scheduler.wait(0.002)
        return True

    def save(self, names):
        """Offers what is in its first blocks."""
        self.scheduler.new_request(1, names)
        self.until(lambda: self.scheduler.match(1, 0, len(names))[0] == library.NONE)
        self.scheduler.bind(1, 0, [])
        self.scheduler.scheduled(1, 0, len(names) * TOKENS, [], list(range(len(names))), True)
        self.step(len(names) * TOKENS)
        self.scheduler.finished(1)

    def is_ready(self, names, count, local=0):
        """Whether request 2 can load so many of them beyond the first ones."""
        self.scheduler.finished(2)
        self.scheduler.new_request(2, names)
        self.until(lambda: self.scheduler.match(2, 0, count)[0] != library.PENDING)
        return self.scheduler.match(2, local, count) == (library.READY, count - local)

    def close(self):
        self.scheduler.close()
        self.rank.close()


class HostDevice(library.Device):
    """A device whose memory is this process's."""

    def __init__(self):
        self.rows, self.mapped, self.unmapped = [0, 0], 0, 0
        super().__init__(self.map, self.unmap, self.copy)

    def map(self, base, size, is_read_only):
        self.mapped += 1
        return 0

    def unmap(self, base):
        self.unmapped += 1

    def copy(self, copies, is_to_device):
        for copy in copies:
            self.rows[is_to_device] += copy.rows
            for row in range(copy.rows):
                near = copy.device + row * copy.device_stride
                far = copy.host + row * copy.host_stride
                ctypes.memmove(*((near, far) if is_to_device else (far, near)), copy.bytes)
        return 0


def has_cuda():
    try:
        ctypes.CDLL("libcuda.so.1")
        return True
    except OSError:
        return False


def hashes(count, salt=b""):
    return [hashlib.sha256(salt + bytes([number])).digest() for number in range(count)]


class BesideANode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="rg2-abi-")
        os.chmod(cls.folder.name, 0o700)
        port = random.randrange(20000, 30000)
        cls.node = subprocess.Popen(
            [ROOT / ".build/release/remote-g2", "node", "--name", "t", "--listen"]
            + [f"127.0.0.1:{port}", "--memory", "4MiB", "--run-dir", cls.folder.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert b"ready" in cls.node.stdout.readline()
        cls.socket = f"{cls.folder.name}/t.node"

    @classmethod
    def tearDownClass(cls):
        cls.node.send_signal(signal.SIGTERM)
        status = cls.node.wait(10)
        cls.node.stdout.close()
        cls.folder.cleanup()
        assert status == 0, status

    def test_what_was_saved_is_loaded_byte_by_byte(self):
        engine = Engine(self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.step()
        names = hashes(4)
        for block in range(4):
            engine.fill(block, 10 * block + 1)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4, local=1)))
        engine.scheduler.bind(2, 1, [9, 8, 12])
        finished, errors = engine.step()
        self.assertEqual((finished, errors), ([2], []))
        for place, block in enumerate([9, 8, 12]):
            self.assertTrue(engine.holds(block, 10 * (place + 1) + 1))
        engine.scheduler.finished(2)
        engine.step()
        self.assertEqual(engine.scheduler.counts["loads"], 1)
        engine.close()

    def test_pages_of_a_device_are_copied_by_its_functions(self):
        device = HostDevice()
        engine = Engine(self.socket, device)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.step()
        names = hashes(4, b"device")
        for block in range(4):
            engine.fill(block, 20 * block + 7)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4)))
        engine.scheduler.bind(2, 0, [4, 5, 6, 7])
        self.assertEqual(engine.step(), ([2], []))
        self.assertTrue(all(engine.holds(4 + block, 20 * block + 7) for block in range(4)))
        engine.close()
        # Of what was copied: from the device, and to it.
        self.assertGreaterEqual(device.rows[0], 4 * LAYERS)
        self.assertEqual(device.rows[1], 4 * LAYERS)
        self.assertEqual((device.mapped, device.unmapped), (2, 2))

    def test_an_engine_of_a_new_epoch_finds_nothing_of_before_and_all_of_its_own(self):
        engine = Engine(self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        names = hashes(4, b"epoch")
        for block in range(4):
            engine.fill(block, 10 * block + 1)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4)))
        # Its ranks are those that it had, and know nothing of an epoch.
        engine.scheduler.close()
        engine.scheduler = library.Scheduler(model(weight_epoch=7), self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        self.assertFalse(engine.is_ready(names, 4))
        for block in range(4):
            engine.fill(block, 10 * block + 3)
        engine.scheduler.finished(1)
        engine.save(names)
        self.assertTrue(engine.until(lambda: engine.is_ready(names, 4)))
        engine.scheduler.bind(2, 0, [4, 5, 6, 7])
        self.assertEqual(engine.step(), ([2], []))
        self.assertTrue(all(engine.holds(4 + block, 10 * block + 3) for block in range(4)))
        engine.close()

    def test_broken_plans_and_reports_are_refused_and_harm_nothing(self):
        engine = Engine(self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.scheduler.new_request(1, hashes(4, b"x"))
        engine.scheduler.bind(1, 0, [])
        engine.scheduler.scheduled(1, 0, 64, [], [0, 1, 2, 3], True)
        plan = engine.scheduler.plan(64)
        chance, refused = random.Random(7), 0
        for _ in range(20_000):
            broken = bytearray(plan)
            for _ in range(chance.randrange(1, 5)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            broken = bytes(broken[: chance.randrange(1, len(broken) + 1)])
            try:
                engine.rank.begin(broken)
                engine.rank.load()
            except library.LibraryError:
                refused += 1
        self.assertGreater(refused, 5_000)
        engine.rank.begin(plan)
        report = engine.rank.report()
        for _ in range(20_000):
            broken = bytearray(report)
            broken[chance.randrange(len(broken))] = chance.randrange(256)
            try:
                engine.scheduler.absorb([bytes(broken)])
            except library.LibraryError:
                pass
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        engine.close()

    def test_a_forked_child_is_refused_and_its_parent_goes_on(self):
        engine = Engine(self.socket)
        self.assertTrue(engine.until(lambda: engine.scheduler.attached))
        child = os.fork()
        if child == 0:
            refusals = 0
            for call in (lambda: engine.scheduler.plan(0), lambda: engine.rank.load()):
                try:
                    call()
                except library.LibraryError as error:
                    refusals += "fork" in str(error)
            engine.close()
            os._exit(40 + refusals)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 42)
        self.assertTrue(engine.scheduler.attached)
        engine.step()
        engine.close()


ALONE = ROOT / "Python/tests/engine_alone.py"


class ElsewhereOnTheHost(unittest.TestCase):
    """Engines that share nothing with their node but the folder of its socket."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="rg2-else-")
        os.rmdir(self.folder)
        self.node = None

    def start(self, *flags):
        port = random.randrange(20000, 30000)
        self.node = subprocess.Popen(
            [ROOT / ".build/release/remote-g2", "node", "--name", "t", "--listen", f"127.0.0.1:{port}"]
            + ["--memory", "4MiB", "--run-dir", self.folder, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.assertIn(b"ready", self.node.stdout.readline())

    def tearDown(self):
        if self.node:
            self.node.send_signal(signal.SIGTERM)
            self.assertEqual(self.node.wait(10), 0)
            self.node.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run_engine(self, salt, before=(), die=False, **how):
        environment = {
            "REMOTE_G2_SOCKET": f"{self.folder}/t.node",
            "REMOTE_G2_SALT": salt,
            "REMOTE_G2_LIBRARY": library.find(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": os.environ["PATH"],
        }
        return subprocess.run(
            [*before, "/usr/bin/python3", ALONE, *(["die"] if die else [])],
            env=environment, capture_output=True, text=True, timeout=60, **how,
        )

    def held(self):
        """What the node holds for engines, once they are gone."""
        deadline = time.monotonic() + 5
        while True:
            report = json.loads(
                subprocess.run(
                    [ROOT / ".build/release/remote-g2", "status", "--json", "--name", "t"]
                    + ["--run-dir", self.folder], capture_output=True, text=True, check=True,
                ).stdout
            )
            held = sum(
                pool[what]
                for pool in report["pools"]
                for what in ("engines", "connections", "pinned", "staged", "writing", "leases")
            )
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.02)

    @unittest.skipUnless(
        subprocess.run(["unshare", "-Urpf", "--mount-proc", "true"], capture_output=True).returncode == 0,
        "this machine makes no user namespaces",
    )
    def test_another_user_namespace_and_another_pid_namespace_share_and_leave_nothing(self):
        self.start()
        for die in (False, True):
            done = self.run_engine(f"ns {die}", ["unshare", "-Urpf", "--mount-proc"], die)
            self.assertIn("right, as process 1 of user 0", done.stdout, done.stderr)
            self.assertEqual(self.held(), 0)

    @unittest.skipUnless(os.geteuid() == 0, "only root can be other users")
    def test_a_user_of_the_group_may_attach_and_one_of_none_may_not(self):
        if subprocess.run(["test", "-r", library.find()], user=54321, group=54321, extra_groups=[]).returncode:
            self.skipTest("another user cannot read this checkout")
        self.start("--group", "54322")
        for die in (False, True):
            done = self.run_engine(f"group {die}", die=die, user=54321, group=54322, extra_groups=[])
            self.assertIn("of user 54321", done.stdout, done.stderr)
            self.assertEqual(self.held(), 0)
        done = self.run_engine("none", user=54321, group=54321, extra_groups=[])
        self.assertIn("the node is not there", done.stderr)


class Arguments(unittest.TestCase):
    def refused(self, words, call):
        with self.assertRaises(library.LibraryError) as caught:
            call()
        self.assertIn(words, str(caught.exception))

    def test_what_makes_no_sense_is_refused_with_a_reason(self):
        self.refused("65 ranks", lambda: library.Scheduler(model(rank_count=65), "/tmp/x"))
        self.refused("0 bytes", lambda: library.Scheduler(model(block_bytes=0), "/tmp/x"))
        self.refused("layout is missing", lambda: library.Scheduler(model(layout=None), "/tmp/x"))
        self.refused("socket's path", lambda: library.Scheduler(model(), "/tmp/" + "x" * 200))
        layer = library.Layer(base=4096, stride=PAGE, bytes=PAGE)
        self.refused("4096 bytes", lambda: library.Rank(model(), "/tmp/x", 0, [layer], BLOCKS))
        self.refused("no rank 1", lambda: library.Rank(model(), "/tmp/x", 1, [layer] * 3, BLOCKS))
        scheduler = library.Scheduler(model(), "/tmp/nobody-listens-here")
        self.refused("8 bytes", lambda: scheduler.new_request(1, [b"12345678"]))
        self.refused("no block -1", lambda: scheduler.bind(1, 0, [-1]))
        self.refused("fewer were ready", lambda: scheduler.bind(1, 0, [3]))
        self.refused("0 reports", lambda: scheduler.absorb([]))
        self.refused("report 0", lambda: scheduler.absorb([b"nonsense"]))
        if not has_cuda():
            self.refused("libcuda.so.1 cannot be loaded", lambda: library.CudaDevice(0))
        # Without a node everything is computed.
        scheduler.new_request(1, hashes(2))
        self.assertEqual(scheduler.match(1, 0, 2), (library.NONE, 0))
        self.assertFalse(scheduler.attached)
        scheduler.close()


if __name__ == "__main__":
    unittest.main()
