"""`make vllm`: two stock vLLM servers, each beside a node of ours, share one cache over plain TCP."""

import argparse
import http.client
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from openai import OpenAI
from transformers import AutoTokenizer

from processes import MODEL, ROOT, Failed, Node, Server, until
from relay import Relay
from workload import Nginx, play, summary

TOKENS, PREFIX, GENERATED = 1900, 1792, 24
BLOCKS = PREFIX // 128
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
        # Whether a scene that lost its healthy source three times is passed over.
        self.is_noisy = False
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        text = (ROOT / "Sources/remote-g2/Resources/text.txt").read_text()
        self.text = self.tokenizer(text)["input_ids"]
        self.processes = []
        self.nodes, self.servers = {}, {}
        self.golden = {}
        # By prompt: seconds to the first token when it was computed.
        self.cold_ttft = {}

    def started(self, process):
        self.processes.append(process)
        return process

    def start(self):
        self.relay = Relay(RELAY + 1, PORTS["a"] + 1)
        for name in PORTS:
            self.start_node(name)
        for place, name in enumerate(PORTS):
            self.start_server(name)
        for name in PORTS:
            self.servers[name].wait_until_ready()
        self.wait_until_connected()
        # The first forward pass of a server is slow.
        for name in PORTS:
            self.ask(name, self.text[5:60], tokens=2)

    def start_node(self, name):
        of_b = {"a": RELAY if self.is_relayed else PORTS["a"]}
        members = {"a": {"b": PORTS["b"]}, "b": of_b}[name]
        self.nodes[name] = self.started(Node(name, PORTS[name], members, self.folder))

    def start_server(self, name, plain=False, flags=()):
        port = 8101 + list(PORTS).index(name)
        # Little memory of its own, as a server has that serves many.
        flags = ["--num-gpu-blocks-override", 64, *flags]
        self.servers[name] = self.started(
            Server(
                f"server-{name}", port, self.folder, node=None if plain else name, flags=flags
            )
        )

    def wait_until_connected(self):
        """Every node has its engine, and all others."""
        for name, node in self.nodes.items():

            def look():
                report = node.report()
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

    def ask(self, name, prompt, tokens=GENERATED):
        """(tokens' text, seconds to the first one)"""
        client = OpenAI(base_url=f"{self.servers[name].url}/v1", api_key="none", max_retries=0)
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

    def compute(self, number):
        """Has a prompt computed on a, and waits until b knows that a holds it."""
        before = sealed(self, "a")
        self.golden[number], self.cold_ttft[number] = self.ask("a", self.prompt(number))
        until(10, "a holds the prompt's blocks", lambda: sealed(self, "a") >= before + BLOCKS)
        until(10, "b knows what a holds", lambda: announced(self, "b") >= sealed(self, "a"))

    def scene(self, name, server, number, loaded, tokens=GENERATED):
        """Asks a server, and compares what it loaded and what it answered with what is expected.

        `loaded` is how many tokens must be loaded, or a test of that number."""
        before = self.servers[server].token_counts()
        answer, ttft = self.ask(server, self.prompt(number), tokens)
        after = self.servers[server].token_counts()
        got = {key: int(after[key] - before[key]) for key in after}
        self.golden.setdefault(number, answer)
        identical = answer == self.golden[number]
        is_loaded = loaded(got["loaded"]) if callable(loaded) else got["loaded"] == loaded
        computed = got["prompt"] - got["loaded"] - got["local"]
        return {
            "name": name,
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
        """What nodes hold though nobody waits for anything."""
        leaks = {}

        def look():
            leaks.clear()
            for name, node in self.nodes.items():
                held = node.leaks()
                if held:
                    leaks[name] = held
            return not leaks

        try:
            until(5, "the nodes hold nothing", look)
        except Failed:
            pass
        return leaks


def cold(stage):
    before = sealed(stage, "a")
    result = stage.scene("cold", "a", 1, loaded=0)
    stage.cold_ttft[1] = result["ttft_s"]
    until(10, "a holds the prompt's blocks", lambda: sealed(stage, "a") >= before + BLOCKS)
    return result


def own_node(stage):
    stage.servers["a"].reset()
    return stage.scene("own node", "a", 1, loaded=PREFIX)


def replayed(scene, number):
    """Begun again with another prompt, at most twice, when a healthy source was so starved of this machine that b
    rightly gave it up: there is nothing to judge then."""

    def play(stage):
        for attempt in range(3):
            before = stalls(stage)
            result = scene(stage, number + 20 * attempt)
            # A fault that happened is judged, wherever it fell.
            has_happened = result.pop("has_happened", False)
            if result["ok"] or has_happened or stalls(stage) == before:
                break
            print("  a was too slow, and the pull was given up: begun again", flush=True)
        else:
            if stage.is_noisy and result["tokens_identical"]:
                result["ok"] = True
                result["outcome"] = "NOT JUDGED, the machine was too busy: " + result["outcome"]
        return result

    return play


def pull(stage, number):
    if number not in stage.golden:
        stage.compute(number)
    until(10, "b knows what a holds", lambda: announced(stage, "b") >= sealed(stage, "a"))
    before = stage.nodes["b"].report()["blocksPulled"]
    result = stage.scene("pull", "b", number, loaded=PREFIX)
    pulled = stage.nodes["b"].report()["blocksPulled"] - before
    result["outcome"] += f"; {pulled} blocks came from a"
    result["ok"] = result["ok"] and pulled == BLOCKS
    return with_ratio(stage, result, number)


def source_fault(name, number, signals, after=30 << 20):
    """A signal to the source's node when so many bytes of the prompt's 83 MB have passed."""

    def scene(stage, number):
        stage.compute(number)
        node, happened = stage.nodes["a"], []

        def fault():
            node.signal(signals[0])
            happened.append(stage.relay.passed)

        before = stage.nodes["b"].report()["blocksPulled"]
        stage.relay.arm(after, fault)
        result = stage.scene(name, "b", number, loaded=lambda count: 0 <= count < PREFIX)
        stage.relay.disarm()
        pulled = stage.nodes["b"].report()["blocksPulled"] - before
        # Between the first block and the last: the stream was under way.
        result["fault_proved"] = bool(happened) and 0 < pulled < BLOCKS
        result["has_happened"] = bool(happened)
        ends = stage.nodes["b"].report()["members"][0]["ends"]
        result["outcome"] += f"; {pulled} blocks came first, {happened or 'no fault'} bytes; {ends}"
        result["ok"] = result["ok"] and result["fault_proved"]
        if len(signals) > 1:
            node.signal(signals[1])
        elif happened:
            node.end()
            stage.start_node("a")
        stage.wait_until_connected()
        return with_ratio(stage, result, number)

    return replayed(scene, number)


def own_node_killed(stage, number):
    """b's own node dies while b's request waits for it."""
    stage.compute(number)
    node, happened = stage.nodes["b"], []

    def fault():
        happened.append(node.report()["waiting"])
        node.signal(signal.SIGKILL)

    stage.relay.arm(30 << 20, fault)
    result = stage.scene("own node killed", "b", number, loaded=0)
    stage.relay.disarm()
    # Its engine's question was open when it died.
    result["fault_proved"] = happened == [1] and result["tokens_loaded"] == 0
    result["has_happened"] = bool(happened)
    result["ok"] = result["ok"] and result["fault_proved"]
    node.end()
    stage.start_node("b")
    stage.wait_until_connected()
    return with_ratio(stage, result, number)


def client_gone(stage, number):
    """The client hangs up while its prompt's prefix is on its way; the next one gets it."""
    node = stage.nodes["b"]
    stage.compute(number)
    stalled = stalls(stage)
    # Slow enough to be under way for a while, fast enough not to look stalled.
    stage.relay.rate = 4e6
    connection = stage.post("b", stage.prompt(number))
    until(
        10, "the question waits", lambda: node.report()["pulling"] == 1 or stalls(stage) != stalled
    )
    was_waiting = node.report()["waiting"] == 1
    connection.close()
    began = time.monotonic()
    until(10, "the question is over", lambda: node.report()["waiting"] == 0)
    over = time.monotonic() - began
    stage.relay.rate = None
    result = stage.scene("client gone", "b", number, loaded=PREFIX)
    result["fault_proved"] = result["has_happened"] = was_waiting
    result["outcome"] += f"; the question was over {over:.2f} s after the client"
    result["ok"] = result["ok"] and was_waiting
    return result


def engine_killed(stage):
    """All of server b is killed and started again: its node has what it computed."""
    number = 6
    before = sealed(stage, "b")
    first = stage.scene("engine killed", "b", number, loaded=0)
    until(10, "b holds the prompt's blocks", lambda: sealed(stage, "b") >= before + BLOCKS)
    old = stage.servers["b"]
    was_alive = old.is_alive and engines(stage, "b") == 1
    old.end()
    until(5, "node b has no engine", lambda: engines(stage, "b") == 0)
    stage.start_server("b")
    stage.servers["b"].wait_until_ready()
    stage.wait_until_connected()
    stage.ask("b", stage.text[5:60], tokens=2)
    result = stage.scene("engine killed", "b", number, loaded=PREFIX)
    result["fault_proved"] = was_alive and not old.session()
    stage.cold_ttft[number] = first["ttft_s"]
    result["ok"] = result["ok"] and first["ok"]
    return with_ratio(stage, result, number)


def other_hash(stage):
    """Server b hashes its blocks another way: refused by name, and served cold."""
    number = 1
    stage.servers["b"].end()
    stage.start_server("b", flags=["--prefix-caching-hash-algo", "sha256"])
    stage.servers["b"].wait_until_ready()
    until(20, "node b has its engine", lambda: engines(stage, "b") == 1)
    stage.ask("b", stage.text[5:60], tokens=2)
    result = stage.scene("other hash", "b", number, loaded=0)
    mismatches = [member.get("mismatch") for member in stage.nodes["b"].report()["members"]]
    result["fault_proved"] = any("hash scheme" in (text or "") for text in mismatches)
    result["outcome"] += f"; {mismatches[0]}"
    result["ok"] = result["ok"] and result["fault_proved"]
    stage.servers["b"].end()
    stage.start_server("b")
    stage.servers["b"].wait_until_ready()
    stage.wait_until_connected()
    return result


def pairs(stage):
    """Ten times: a prompt computed by b, and one pulled by b, in turn; medians are compared."""
    stage.is_relayed = False
    stage.nodes["b"].end()
    stage.start_node("b")
    stage.wait_until_connected()
    cold_times, pull_times, identical = [], [], True
    for pair in range(stage.pairs):
        number = 200 + 2 * pair
        _, seconds = stage.ask("b", stage.prompt(number), tokens=2)
        cold_times.append(seconds)
        stage.compute(number + 1)
        # A worker of vLLM's spins for a second after its last step, on one of two cores.
        time.sleep(1.5)
        before = stage.nodes["b"].report()["blocksPulled"]
        result = stage.scene("pairs", "b", number + 1, loaded=PREFIX)
        identical = identical and result["ok"]
        identical = identical and stage.nodes["b"].report()["blocksPulled"] - before == BLOCKS
        pull_times.append(result["ttft_s"])
    cold_time, pull_time = statistics.median(cold_times), statistics.median(pull_times)
    ratio = pull_time / cold_time
    return {
        "name": "pairs",
        "ok": identical and ratio <= 0.15,
        "outcome": f"{stage.pairs} pairs: cold {cold_time:.3f} s ({min(cold_times):.2f} to "
        f"{max(cold_times):.2f}), pulled {pull_time:.3f} s ({min(pull_times):.2f} to "
        f"{max(pull_times):.2f}), {ratio:.3f} of cold",
        "tokens_identical": identical,
        "fault_proved": None,
        "ttft_s": pull_time,
        "tokens_loaded": PREFIX,
        "tokens_computed": TOKENS - PREFIX,
        "leaks": {},
    }


def through_nginx(stage):
    """Ten prefixes with tails of their own, dealt round-robin, without the connector and with it."""
    count = stage.requests
    prefixes = [stage.prompt(100 + number, PREFIX) for number in range(10)]
    prompts = [
        prefixes[number % 10] + stage.prompt(1000 + number, 64) for number in range(count)
    ]
    sides = {}
    for side in ("on", "off"):
        if side == "on":
            for node in stage.nodes.values():
                node.end()
            for name in PORTS:
                stage.start_node(name)
            for server in stage.servers.values():
                server.reset()
            stage.wait_until_connected()
        else:
            for server in stage.servers.values():
                server.end()
            for name in PORTS:
                stage.start_server(name, plain=True)
            for name in PORTS:
                stage.servers[name].wait_until_ready()
            for name in PORTS:
                stage.ask(name, stage.text[5:60], tokens=2)
                stage.servers[name].reset()
        nginx = stage.started(Nginx(8100, stage.servers.values(), stage.folder))
        before = [server.token_counts() for server in stage.servers.values()]
        answers, elapsed = play(nginx.url, prompts, tokens=8, concurrency=4, seed=1)
        after = [server.token_counts() for server in stage.servers.values()]
        nginx.end()
        total = {
            key: int(sum(new[key] - old[key] for new, old in zip(after, before)))
            for key in after[0]
        }
        computed = total["prompt"] - total["local"] - total["loaded"]
        sides[side] = {"answers": [text for _, text in answers], "computed": computed}
        sides[side] |= summary(answers) | {"seconds": round(elapsed, 1)}
    on, off = sides["on"], sides["off"]
    share = on["computed"] / off["computed"]
    faster = on["ttft_p50_s"] / off["ttft_p50_s"]
    identical = on["answers"] == off["answers"]
    for name in PORTS:
        stage.servers[name].end()
        stage.start_server(name)
    for name in PORTS:
        stage.servers[name].wait_until_ready()
    stage.wait_until_connected()
    return {
        "name": "through nginx",
        "ok": identical and share <= 0.35 and faster <= 0.4,
        "outcome": f"{count} requests: {on['computed']} of {off['computed']} tokens computed "
        f"({share:.2f}); TTFT p50 {on['ttft_p50_s']} for {off['ttft_p50_s']} s ({faster:.2f}), p95 "
        f"{on['ttft_p95_s']} for {off['ttft_p95_s']}; {on['seconds']} for {off['seconds']} s in all",
        "tokens_identical": identical,
        "fault_proved": None,
        "ttft_s": on["ttft_p50_s"],
        "tokens_loaded": None,
        "tokens_computed": on["computed"],
        "leaks": {},
    }


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


def engines(stage, name):
    return sum(pool["engines"] for pool in stage.nodes[name].report()["pools"])


def announced(stage, name):
    return sum(member["keys"] for member in stage.nodes[name].report()["members"])


SCENES = {
    "cold": cold,
    "own node": own_node,
    "pull": replayed(pull, 1),
    "source killed": source_fault("source killed", 2, [signal.SIGKILL]),
    "source stopped": source_fault("source stopped", 3, [signal.SIGSTOP, signal.SIGCONT]),
    "own node killed": replayed(own_node_killed, 4),
    "client gone": replayed(client_gone, 5),
    "engine killed": engine_killed,
    "other hash": other_hash,
}
# Played when they are named.
NAMED = {"pairs": pairs, "through nginx": through_nginx}


def table(results):
    print(f"{'scene':24} {'ok':4} {'same tokens':12} {'TTFT s':>8}  outcome")
    for result in results:
        print(
            f"{result['name']:24} {'yes' if result['ok'] else 'NO':4} "
            f"{'yes' if result['tokens_identical'] else 'NO':12} {result['ttft_s']:8.3f}  "
            f"{result['outcome']}" + (f"; leaks: {result['leaks']}" if result["leaks"] else "")
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--scenes", default=",".join(SCENES), help="which, in order; default: all")
    parser.add_argument("--requests", type=int, default=60, help="behind nginx; default: 60")
    parser.add_argument("--pairs", type=int, default=10, help="of scene pairs; default: 10")
    parser.add_argument(
        "--noisy",
        action="store_true",
        help="on a machine that others use too: a scene whose healthy source was given up three times for want "
        "of processor time is not judged, but for its tokens",
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.scenes.split(",")]
    for name in names:
        if name not in SCENES | NAMED:
            parser.error(f"there is no scene '{name}': {', '.join(SCENES | NAMED)}")
    folder = Path(tempfile.mkdtemp(prefix="remote-g2-vllm-"))
    (folder / "run").mkdir(mode=0o700)
    stage, results, problem = Stage(folder, arguments.requests, arguments.pairs), [], None
    stage.is_noisy = arguments.noisy
    try:
        print("starting two nodes and two stock vLLM servers (about a minute)", flush=True)
        stage.start()
        for name in names:
            print(f"scene: {name}", flush=True)
            result = (SCENES | NAMED)[name](stage)
            result["leaks"] = stage.audit()
            result["ok"] = result["ok"] and not result["leaks"]
            results.append(result)
            print(f"  {results[-1]['outcome']}", flush=True)
    except Failed as failure:
        problem = str(failure)
    finally:
        stage.stop()
    table(results)
    ok = problem is None and all(result["ok"] for result in results)
    if arguments.json:
        arguments.json.write_text(json.dumps({"ok": ok, "scenes": results}, indent=2) + "\n")
    if problem:
        print(f"vllm: {problem}", file=sys.stderr)
    if ok and not arguments.keep:
        shutil.rmtree(folder)
    else:
        print(f"logs are in {folder}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
