"""The two nodes and servers that scenes play on, and how a scene is judged."""

import http.client
import json
import time
from pathlib import Path

from openai import OpenAI
from transformers import AutoTokenizer

from processes import MODEL, ROOT, Failed, Node, Server, until
from relay import Relay

TOKENS, PREFIX, GENERATED = 1900, 1792, 24
BLOCKS = PREFIX // 128
BLOCK_BYTES = 5898240
PORTS = {"a": 7101, "b": 7111}
# Where b finds a: a relay, so that faults can fall into the middle of a stream.
RELAY = 7121


class Stage:
    """The two nodes and servers, and what is asked of them."""

    def __init__(self, folder, requests, pairs):
        self.folder = folder
        # Of the workload behind nginx, and how often two prompts are compared.
        self.requests, self.pairs = requests, pairs
        self.is_relayed = True
        # Whether nodes have a keeper, and the folder of their certificates, if they have any.
        self.is_kept, self.certificates = False, None
        # Whether a scene that lost its healthy source three times is passed over.
        self.is_noisy = False
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        text = (ROOT / "Sources/remote-g2/Resources/text.txt").read_text()
        self.text = self.tokenizer(text)["input_ids"]
        self.processes = []
        self.nodes, self.servers = {}, {}
        self.golden = {}
        self.ranks, self.tokens_per_block = 1, 128
        self.connector = {}
        self.clients = {}
        # By prompt: seconds to the first token when it was computed.
        self.cold_ttft = {}

    def started(self, process):
        self.processes.append(process)
        return process

    def start(self):
        self.relay = Relay(RELAY + 1, PORTS["a"] + 1)
        for name in PORTS:
            self.start_node(name)
        for name in PORTS:
            self.start_server(name)
        self.wait_for_servers()

    def wait_for_servers(self):
        for name in PORTS:
            self.servers[name].wait_until_ready()
        self.wait_until_connected()
        # The first forward pass of a server is slow.
        for name in PORTS:
            self.ask(name, self.text[5:60], tokens=2)

    def restart_servers(self, ranks=1, connector=None, names=tuple(PORTS), flags=()):
        """Both servers anew, with so many ranks; by name, another class of connector."""
        self.ranks, self.connector = ranks, connector or {}
        for name in names:
            if name in self.servers:
                self.servers[name].end()
        for name in names:
            self.start_server(name, flags=flags)
        self.wait_for_servers()

    def start_node(self, name, memory="1GiB"):
        of_b = {"a": RELAY if self.is_relayed else PORTS["a"]}
        members = {"a": {"b": PORTS["b"]}, "b": of_b}[name]
        self.nodes[name] = self.started(
            Node(name, PORTS[name], members, self.folder, memory=memory, keeper=self.is_kept,
                 certificates=self.certificates)
        )

    def restart_node(self, name, memory="1GiB"):
        self.nodes[name].end()
        self.start_node(name, memory)
        self.wait_until_connected()

    def start_server(self, name, plain=False, flags=(), model=None, threads=None):
        port = 8101 + list(PORTS).index(name)
        # Little memory of its own, as a server has that serves many.
        flags = ["--num-gpu-blocks-override", 64, *flags]
        self.servers[name] = self.started(
            Server(
                f"server-{name}",
                port,
                self.folder,
                node=None if plain else name,
                flags=flags,
                ranks=self.ranks,
                connector=self.connector.get(name),
                model=model or MODEL,
                threads=threads,
            )
        )

    def wait_until_connected(self):
        """Every node has its engine, and all others."""
        for name, node in self.nodes.items():

            def look():
                try:
                    report = node.report()
                except Failed:
                    # Its keeper may be starting the process that answers.
                    return False
                is_whole = all(member["standing"] == "connected" for member in report["members"])
                return is_whole and any(pool["engines"] for pool in report["pools"])

            until(20, f"node {name} is connected", look)

    def stop(self):
        for process in reversed(self.processes):
            process.end(grace=1.0)

    def prompt(self, number, length=TOKENS):
        """One of many prompts that have no block in common."""
        shift = 1 + number * 97 % (len(self.text) - 1)
        turned = self.text[shift:] + self.text[:shift]
        return (turned * (1 + length // len(turned)))[:length]

    def client(self, url):
        """One for each server: to make one takes longer than a question, and this process is the network too."""
        if url not in self.clients:
            self.clients[url] = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        return self.clients[url]

    def ask(self, name, prompt, tokens=GENERATED):
        """(tokens' text, seconds to the first one)"""
        client = self.client(self.servers[name].url)
        began = time.monotonic()
        first, pieces, ids = None, [], []
        stream = client.completions.create(
            model="smollm2",
            prompt=prompt,
            max_tokens=tokens,
            temperature=0,
            stream=True,
            timeout=120,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        for chunk in stream:
            if chunk.choices and (chunk.choices[0].text or getattr(chunk.choices[0], "token_ids", None)):
                first = first or time.monotonic() - began
                pieces.append(chunk.choices[0].text)
                ids += getattr(chunk.choices[0], "token_ids", None) or []
        return (ids or "".join(pieces)), first

    def post(self, name, prompt):
        """Asks over a connection that the caller closes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.servers[name].port, timeout=60)
        body = {"model": "smollm2", "prompt": prompt, "max_tokens": 4, "stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        return connection

    def compute(self, number, length=TOKENS):
        """Has a prompt computed on a, and waits until b knows that a holds it."""
        before, blocks = saved(self, "a"), (length - 1) // self.tokens_per_block
        prompt = self.prompt(number, length)
        self.golden[number], self.cold_ttft[number] = self.ask("a", prompt)
        until(10, "a holds the prompt's blocks", lambda: saved(self, "a") >= before + blocks)
        until(10, "b knows what a holds", lambda: announced(self, "b") == sealed(self, "a"))

    def scene(self, name, server, number, loaded, tokens=GENERATED, length=TOKENS):
        """Asks a server, and compares what it loaded and what it answered with what is expected.

        `loaded` is how many tokens must be loaded, or a test of that number."""
        before = self.servers[server].token_counts()
        answer, ttft = self.ask(server, self.prompt(number, length), tokens)
        after = self.servers[server].token_counts()
        got = {key: int(after[key] - before[key]) for key in after}
        self.golden.setdefault(number, answer)
        identical = answer == self.golden[number]
        is_loaded = loaded(got["loaded"]) if callable(loaded) else got["loaded"] == loaded
        computed = got["prompt"] - got["loaded"] - got["local"]
        return {
            "name": name,
            "answer": answer,
            "ok": identical and is_loaded and len(answer) > 0,
            "outcome": f"{got['loaded']} loaded, {got['local']} of its own, {computed} computed",
            "tokens_identical": identical,
            "fault_proved": None,
            "ttft_s": round(ttft, 3),
            "tokens_loaded": got["loaded"],
            "tokens_computed": computed,
            "leaks": {},
        }

    def audit(self):
        """What nodes and engines hold though nobody waits for anything."""
        leaks = self.held_by_nodes()
        for name, server in self.servers.items():
            if server.node_name is None:
                continue
            # An engine lets a node that has gone go with its next step.
            self.ask(name, self.text[5:40], tokens=1)
            held = server.held()
            # Of each rank its pool and its staging memory, and of the scheduler the table of known keys.
            most = {"mappings": 1 + 2 * self.ranks, "connections": 1 + self.ranks}
            over = {what: count for what, count in held.items() if count > most[what]}
            if over:
                leaks[f"server {name}"] = over
        leaks |= self.left_in_memory()
        return leaks

    def left_in_memory(self):
        """Files of ours where shared memory is: there must never be any."""
        ours = [path.name for path in Path("/dev/shm").iterdir() if "remote" in path.name]
        return {"/dev/shm": ours} if ours else {}

    def held_by_nodes(self):
        leaks = {}

        def look():
            leaks.clear()
            for name, node in self.nodes.items():
                try:
                    held = node.leaks()
                except Failed as failure:
                    held = {"it does not answer": str(failure)}
                if held:
                    leaks[name] = held
            return not leaks

        try:
            until(5, "the nodes hold nothing", look)
        except Failed:
            pass
        return leaks


def replayed(scene, number):
    """Begun again with another prompt, at most twice, when there is nothing to judge: the scene's fault did not come
    to pass, or a healthy source was so starved of this machine that b rightly gave it up."""

    def play(stage):
        for attempt in range(3):
            before = stalls(stage)
            result = scene(stage, number + 20 * attempt)
            # A fault that happened is judged, wherever it fell.
            has_happened = result.pop("has_happened", None)
            is_starved = stalls(stage) != before
            if result["ok"] or has_happened or (has_happened is None and not is_starved):
                break
            why = "a was too slow, and the pull was given up" if is_starved else "the fault did not happen"
            print(f"  {why}: begun again", flush=True)
        else:
            if stage.is_noisy and result["tokens_identical"]:
                result["ok"] = True
                result["outcome"] = "NOT JUDGED, the machine was too busy: " + result["outcome"]
        return result

    return play


def with_ratio(stage, result, number):
    ratio = result["ttft_s"] / stage.cold_ttft[number]
    result["outcome"] += f"; TTFT {ratio:.2f} of cold"
    return result


def stalls(stage):
    """How often b has given a up."""
    members = stage.nodes["b"].report()["members"]
    return sum(member["ends"].get("stalled", 0) for member in members)


def sealed(stage, name):
    return sum(pool["sealed"] for pool in stage.nodes[name].report()["pools"])


def saved(stage, name):
    """How many blocks it has ever sealed, whether its engines had computed them or another node had them."""
    report = stage.nodes[name].report()
    return report["blocksPulled"] + sum(
        pool["saves"].get("sealed", 0) for pool in report["pools"]
    )


def engines(stage, name):
    return sum(pool["engines"] for pool in stage.nodes[name].report()["pools"])


def announced(stage, name):
    return sum(member["keys"] for member in stage.nodes[name].report()["members"])
