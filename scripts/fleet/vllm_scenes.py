"""`make vllm`: two stock vLLM servers, each beside a node of ours, share one cache over plain TCP."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from openai import OpenAI
from transformers import AutoTokenizer

from processes import MODEL, ROOT, Failed, Node, Server, until

TOKENS, PREFIX, GENERATED = 1900, 1792, 24


class Stage:
    """The two nodes and servers, and what is asked of them."""

    def __init__(self, folder):
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        text = (ROOT / "Sources/remote-g2/Resources/text.txt").read_text()
        self.text = self.tokenizer(text)["input_ids"]
        self.processes = []
        self.golden = {}

    def started(self, process):
        self.processes.append(process)
        return process

    def start(self):
        ports = {"a": 7101, "b": 7111}
        self.nodes = {}
        for name, port in ports.items():
            members = {other: ports[other] for other in ports if other != name}
            self.nodes[name] = self.started(Node(name, port, members, self.folder))
        self.servers = {
            name: self.started(Server(f"server-{name}", 8101 + place, self.folder, node=name))
            for place, name in enumerate(ports)
        }
        for server in self.servers.values():
            server.wait_until_ready()
        for name in ports:
            until(10, f"the nodes know each other ({name})", lambda: self.is_connected(name))
        # The first forward pass of a server is slow.
        for name in ports:
            self.ask(name, self.text[5:60], tokens=2)

    def is_connected(self, name):
        members = self.nodes[name].report()["members"]
        return all(member["standing"] == "connected" for member in members)

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

    def cold(self, number):
        """What a prompt yields when it is computed."""
        if number not in self.golden:
            raise Failed(f"prompt {number} was not computed first")
        return self.golden[number]

    def scene(self, name, server, number, loaded, tokens=GENERATED):
        """Asks a server, and compares what it loaded and what it answered with what is expected."""
        before = self.servers[server].token_counts()
        answer, ttft = self.ask(server, self.prompt(number), tokens)
        after = self.servers[server].token_counts()
        got = {key: int(after[key] - before[key]) for key in after}
        if number not in self.golden:
            self.golden[number] = answer
        identical = answer == self.golden[number]
        leaks = self.audit()
        computed = got["prompt"] - got["loaded"] - got["local"]
        ok = identical and got["loaded"] == loaded and not leaks and len(answer) > 0
        return {
            "name": name,
            "ok": ok,
            "outcome": f"{got['loaded']} loaded, {got['local']} of its own, {computed} computed",
            "tokens_identical": identical,
            "fault_proved": None,
            "ttft_s": round(ttft, 3),
            "tokens_loaded": got["loaded"],
            "tokens_computed": computed,
            "leaks": leaks,
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
    result = stage.scene("cold", "a", 1, loaded=0)
    until(10, "a holds the prompt's blocks", lambda: sealed(stage, "a") >= PREFIX // 128)
    return result


def own_node(stage):
    stage.servers["a"].reset()
    return stage.scene("own node", "a", 1, loaded=PREFIX)


def pull(stage):
    until(10, "b knows what a holds", lambda: announced(stage, "b") >= PREFIX // 128)
    before = stage.nodes["b"].report()["blocksPulled"]
    result = stage.scene("pull", "b", 1, loaded=PREFIX)
    pulled = stage.nodes["b"].report()["blocksPulled"] - before
    result["outcome"] += f"; {pulled} blocks came from a"
    result["ok"] = result["ok"] and pulled == PREFIX // 128
    return result


def sealed(stage, name):
    return sum(pool["sealed"] for pool in stage.nodes[name].report()["pools"])


def announced(stage, name):
    return sum(member["keys"] for member in stage.nodes[name].report()["members"])


SCENES = {"cold": cold, "own node": own_node, "pull": pull}


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
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.scenes.split(",")]
    for name in names:
        if name not in SCENES:
            parser.error(f"there is no scene '{name}': {', '.join(SCENES)}")
    folder = Path(tempfile.mkdtemp(prefix="remote-g2-vllm-"))
    (folder / "run").mkdir(mode=0o700)
    stage, results, problem = Stage(folder), [], None
    try:
        print("starting two nodes and two stock vLLM servers (about a minute)", flush=True)
        stage.start()
        for name in names:
            print(f"scene: {name}", flush=True)
            results.append(SCENES[name](stage))
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
