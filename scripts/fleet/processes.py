"""What the scenes start: nodes, stock vLLM servers, nginx. Everything is stopped by its pid or its session."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = Path(os.environ.get("REMOTE_G2_BUILT", ROOT / ".build" / "release"))
BIN = BUILT / "remote-g2"
PYTHON = ROOT / ".deps" / "vllm" / "bin" / "python"
MODEL = ROOT / ".deps" / "model-hf"


class Failed(Exception):
    """A process did not do what the scenes need of it."""


def until(seconds, what, look):
    """Looks again and again until there is something, or says what there was not."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def fetch(url, method="GET", timeout=10):
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


class Process:
    """A process in a session of its own, with its output in a file."""

    def __init__(self, name, arguments, folder, environment=None):
        self.name = name
        self.log = folder / f"{name}.log"
        # What an earlier one of the name has written.
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self.child.pid

    @property
    def is_alive(self):
        return self.child.poll() is None

    def signal(self, number):
        """To this process alone."""
        os.kill(self.pid, number)

    def words(self):
        """What it has written so far."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def last_words(self):
        lines = self.words().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def session(self):
        """The processes of its session that are still there."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(path.name))
        return found

    def end(self, grace=0.0):
        """Ends all of its session, with some time to do it itself."""
        if grace and self.is_alive:
            self.signal(signal.SIGTERM)
            try:
                self.child.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        for _ in range(100):
            left = self.session()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        self.child.wait()


class Node(Process):
    """A node of ours, perhaps in a network namespace; a member is a port of this host, or an address."""

    def __init__(self, name, port, members, folder, memory="1GiB", host="127.0.0.1", space=None, keeper=False,
                 certificates=None):
        self.port, self.folder, self.is_kept = port, folder, keeper
        arguments = ["ip", "netns", "exec", space] if space else []
        arguments += [BIN, "node", "--name", name, "--listen", f"{host}:{port}"]
        arguments += ["--memory", memory, "--run-dir", folder / "run"]
        if host != "127.0.0.1":
            arguments.append("--insecure")
        if not keeper:
            # What is killed and stopped is then all of the node.
            arguments.append("--no-keeper")
        for other, address in members.items():
            if isinstance(address, int):
                address = f"127.0.0.1:{address}"
            arguments += ["--member", f"{other}={address}"]
        if certificates:
            for flag, file in ("certificate", "crt"), ("key", "key"), ("authority", "authority"):
                arguments += [f"--tls-{flag}", certificates / f"{name}.{file}"]
        self.arguments = arguments
        super().__init__(f"node-{name}", arguments, folder)
        self.node = name
        until(10, f"node {name} is ready", self._is_ready)

    @property
    def serving(self):
        """The process that serves: where there is a keeper, its child. None: there is none now."""
        if not self.is_kept:
            return self.pid
        try:
            # By the thread that has started it.
            tasks = list(Path(f"/proc/{self.pid}/task").glob("*/children"))
            children = [pid for task in tasks for pid in task.read_text().split()]
        except OSError:
            return None
        return int(children[0]) if children else None

    def signal(self, number):
        """To all of the node; SIGTERM to its keeper, which hands it on."""
        serving = self.serving
        os.kill(self.pid, number)
        if serving not in (None, self.pid) and number != signal.SIGTERM:
            try:
                os.kill(serving, number)
            except ProcessLookupError:
                # It ends with its keeper.
                pass

    def kill_serving(self):
        """Only the process that serves, which its keeper follows by another."""
        pid = self.serving
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def _is_ready(self):
        if not self.is_alive:
            raise Failed(f"node {self.node} ended: {self.last_words()}")
        return '"event":"ready"' in self.words()

    def report(self):
        """What it says of itself: asked over its socket, because starting a program takes tens of milliseconds of
        a processor that the scenes need."""
        text = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(5)
                connection.connect(str(self.folder / "run" / f"{self.node}.node"))
                connection.send(struct.pack("<BQ", 12, 1))
                is_last = False
                while not is_last:
                    page = connection.recv(64 << 10)
                    tag, _, is_last, length = struct.unpack_from("<BQ?I", page)
                    if tag != 76 or len(page) != 14 + length:
                        raise Failed(f"node {self.node} says what it should not")
                    text += page[14:]
        except (OSError, struct.error) as error:
            raise Failed(f"node {self.node} does not answer: {error}") from None
        return json.loads(text)

    def leaks(self):
        """What it holds for anybody, which at rest must be nothing."""
        report = self.report()
        held = {name: report[name] for name in ("waiting", "pulling", "serving", "servingPins")}
        for name in ("writing", "pinned", "staged", "leases"):
            held[name] = sum(pool[name] for pool in report["pools"])
        return {name: count for name, count in held.items() if count}


class Server(Process):
    """A stock vLLM server; with a node's name, one with our connector, or with one that scenes made of it."""

    def __init__(self, name, port, folder, node=None, flags=(), ranks=1, connector=None, model=MODEL,
                 threads=None):
        self.port, self.node_name = port, node
        arguments = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        arguments += ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", port]
        arguments += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2304"]
        arguments += ["--prefix-caching-hash-algo", "sha256_cbor"]
        arguments += ["--tensor-parallel-size", ranks, *flags]
        if node:
            transfer = {
                "kv_connector": connector[1] if connector else "RemoteG2Connector",
                "kv_connector_module_path": connector[0] if connector else "remote_g2.vllm",
                "kv_role": "kv_both",
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {"node": node},
            }
            arguments += ["--kv-transfer-config", json.dumps(transfer)]
        environment = {
            "PYTHONPATH": f"{ROOT / 'Python'}:{ROOT / 'scripts/fleet/connectors'}",
            "REMOTE_G2_FAULT": str(folder / f"fault-{name}.json"),
            "REMOTE_G2_TIMES": str(folder / f"times-{name}.jsonl"),
            "REMOTE_G2_RUN_DIR": str(folder / "run"),
            "REMOTE_G2_LIBRARY": str(BUILT / "libremote_g2.so"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads or (1 if ranks > 1 else 2)),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        super().__init__(name, arguments, folder, environment)
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_ready(self, seconds=300):
        def look():
            if not self.is_alive:
                raise Failed(f"server {self.name} ended: {self.last_words()} ({self.log})")
            try:
                fetch(f"{self.url}/health", timeout=2)
                return True
            except (urllib.error.URLError, OSError):
                return False

        until(seconds, f"server {self.name} is ready", look)

    def held(self):
        """Of its processes: mappings of nodes' memory, and connections to nodes."""
        mappings = connections = 0
        for pid in self.session():
            try:
                maps = (Path("/proc") / str(pid) / "maps").read_text()
            except OSError:
                continue
            mappings += len(
                {line.split()[4] for line in maps.splitlines() if "memfd:remote-g2" in line}
            )
            connections += self._library_sockets(pid)
        return {"mappings": mappings, "connections": connections}

    @staticmethod
    def _library_sockets(pid):
        """SOCK_SEQPACKET connections of a process: nobody but our library makes any there."""
        packets = set()
        for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            # Type 5, connected.
            if fields[4] == "0005" and fields[5] == "03":
                packets.add(fields[6])
        count = 0
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in packets:
                count += 1
        return count

    def workers(self):
        """The processes that hold its ranks' pages."""
        found = []
        for pid in self.session():
            try:
                name = (Path("/proc") / str(pid) / "cmdline").read_bytes()
                maps = (Path("/proc") / str(pid) / "maps").read_text()
            except OSError:
                continue
            if b"orker" in name or "memfd:remote-g2-pool" in maps:
                found.append(pid)
        return found

    def reset(self, external=False):
        """Forgets its own prefix cache; with its external part, because its weights may be others from now on."""

        def look():
            query = "?reset_external=true" if external else ""
            fetch(f"{self.url}/reset_prefix_cache{query}", method="POST")
            return True

        until(10, f"{self.name} forgets its cache", look)

    def counter(self, name):
        """The sum of one of its counters, over its labels."""
        total = 0.0
        for line in fetch(f"{self.url}/metrics").splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def token_counts(self):
        return {
            "local": self.counter("vllm:prefix_cache_hits_total"),
            "loaded": self.counter("vllm:external_prefix_cache_hits_total"),
            "prompt": self.counter("vllm:prompt_tokens_total"),
        }


def fail(reason):
    print(f"vllm: {reason}", file=sys.stderr)
    sys.exit(1)
