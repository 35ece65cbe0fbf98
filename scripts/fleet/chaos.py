"""`make chaos-vllm`: faults thrown at nodes, the network and engines while stock vLLM asks for prefixes."""

import collections
import os
import random
import signal
import statistics
import threading
import time

from processes import Failed, until
from stage import announced, sealed

# Short enough for a hundred faults, long enough for a stream to be under way.
LENGTH, TOKENS = 1100, 8
PROMPTS = 6


class Chaos:
    def __init__(self, stage):
        self.stage, self.chance = stage, random.Random(stage.seed)
        self.faults = {
            "source killed": self.source_killed,
            "source stopped": self.source_stopped,
            "connections cut": self.connections_cut,
            "bytes changed": self.bytes_changed,
            "network dark": self.network_dark,
            "network slow": self.network_slow,
            "own node killed": self.own_killed,
            "own node stopped": self.own_stopped,
            "worker stopped": self.worker_stopped,
            "client gone": self.client_gone,
            "killed while saving": self.killed_while_saving,
        }

    def prepare(self, number):
        """a holds the prompt, b's engine and node hold nothing."""
        stage = self.stage
        if number in stage.golden:
            stage.servers["a"].reset()
            stage.ask("a", stage.prompt(number, LENGTH), TOKENS)
        else:
            stage.golden[number], _ = stage.ask("a", stage.prompt(number, LENGTH), TOKENS)
        stage.servers["b"].reset()
        if stage.nodes["b"].report()["pools"] and sealed(stage, "b"):
            stage.restart_node("b")
        until(10, "a holds the prompt", lambda: sealed(stage, "a") >= (LENGTH - 1) // 128)
        until(10, "b knows it", lambda: announced(stage, "b") == sealed(stage, "a"))

    def play(self, kind, number):
        """(whether the fault happened, whether the tokens were right, seconds to the first)"""
        self.prepare(number)
        happened = []
        undo = self.faults[kind](happened)
        if kind == "client gone":
            connection = self.stage.post("b", self.stage.prompt(number, LENGTH))
            until(10, "the question waits", lambda: self.stage.nodes["b"].report()["waiting"] >= 1)
            happened.append("hung up")
            connection.close()
        answer, seconds = self.stage.ask("b", self.stage.prompt(number, LENGTH), TOKENS)
        self.stage.relay.disarm()
        undo()
        self.stage.wait_until_connected()
        return bool(happened), answer == self.stage.golden[number], seconds

    # Each arms a fault and returns how it is undone.

    def after_some_bytes(self, fault):
        # Of 47 MB; a pull that is given up earlier, because computing is faster by then, is no fault.
        self.stage.relay.arm(self.chance.randrange(1 << 20, 30 << 20), fault)

    def signalled(self, node, number, happened):
        def fault():
            node.signal(number)
            happened.append(number)

        self.after_some_bytes(fault)

    def source_killed(self, happened):
        node = self.stage.nodes["a"]
        self.signalled(node, signal.SIGKILL, happened)

        def undo():
            if happened:
                node.end()
                self.stage.start_node("a")

        return undo

    def source_stopped(self, happened):
        node = self.stage.nodes["a"]
        self.signalled(node, signal.SIGSTOP, happened)
        return lambda: node.signal(signal.SIGCONT)

    def connections_cut(self, happened):
        def fault():
            self.stage.relay.cut()
            happened.append("cut")

        self.after_some_bytes(fault)
        return lambda: None

    def bytes_changed(self, happened):
        relay, before = self.stage.relay, self.stage.relay.spoiled

        def fault():
            relay.spoil = 1

        self.after_some_bytes(fault)

        def undo():
            relay.spoil = 0
            happened.extend(["changed"] * (relay.spoiled - before))

        return undo

    def network_dark(self, happened):
        def fault():
            self.stage.relay.is_dark = True
            happened.append("dark")

        self.after_some_bytes(fault)

        def undo():
            self.stage.relay.is_dark = False
            self.stage.relay.cut()

        return undo

    def network_slow(self, happened):
        relay, before = self.stage.relay, self.stage.relay.slowed
        relay.rate = self.chance.uniform(1e6, 2e7)

        def undo():
            relay.rate = None
            happened.extend(["slow"] * (relay.slowed > before))

        return undo

    def own_killed(self, happened):
        node = self.stage.nodes["b"]
        self.signalled(node, signal.SIGKILL, happened)

        def undo():
            if happened:
                node.end()
                self.stage.start_node("b")

        return undo

    def own_stopped(self, happened):
        node = self.stage.nodes["b"]
        self.signalled(node, signal.SIGSTOP, happened)
        return lambda: node.signal(signal.SIGCONT)

    def worker_stopped(self, happened):
        workers = self.stage.servers["b"].workers()

        def fault():
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            happened.extend(["stopped"] * len(workers))
            timer = threading.Timer(
                self.chance.uniform(0.1, 0.8), lambda: [os.kill(pid, signal.SIGCONT) for pid in workers]
            )
            timer.start()

        self.after_some_bytes(fault)
        return lambda: None

    def client_gone(self, happened):
        self.stage.relay.rate = 5e5

        def undo():
            self.stage.relay.rate = None

        return undo

    def killed_while_saving(self, happened):
        node = self.stage.nodes["b"]
        over = threading.Event()

        def watch():
            while not over.is_set():
                try:
                    report = node.report()
                except Failed:
                    return
                if sum(pool["staged"] + pool["writing"] for pool in report["pools"]):
                    node.signal(signal.SIGKILL)
                    happened.append("killed")
                    return
                time.sleep(0.001)

        watching = threading.Thread(target=watch)
        watching.start()

        def undo():
            over.set()
            watching.join()
            if happened:
                node.end()
                self.stage.start_node("b")

        return undo


def play(stage):
    chaos = Chaos(stage)
    kinds = [name for name in chaos.faults for _ in range(-(-stage.faults // len(chaos.faults)))]
    chaos.chance.shuffle(kinds)
    kinds = kinds[: stage.faults]
    proved, wrong, stuck, leaks, slowest = collections.Counter(), [], [], [], []
    for place, kind in enumerate(kinds):
        number = 700 + chaos.chance.randrange(PROMPTS)
        try:
            for _ in range(3):
                happened, identical, seconds = chaos.play(kind, number)
                # A fault that did not come to pass is thrown again.
                if happened or not identical:
                    break
        except Exception as problem:  # a client's timeout is what "stuck" is
            stuck.append(f"{kind} ({place}): {problem}")
            break
        proved[kind] += happened
        slowest.append(seconds)
        if not identical:
            wrong.append(f"{kind} ({place}, prompt {number})")
        held = stage.audit()
        if held:
            leaks.append(f"{kind} ({place}): {held}")
        if place % 10 == 9:
            print(f"  {place + 1} faults, {len(wrong)} wrong, {len(leaks)} leaks", flush=True)
    count = sum(proved.values())
    asked = collections.Counter(kinds)
    return {
        "name": "chaos",
        "ok": not wrong and not stuck and not leaks and count == len(kinds),
        "outcome": f"{len(kinds)} faults, {count} proved ("
        + ", ".join(f"{kind} {proved[kind]} of {asked[kind]}" for kind in sorted(asked))
        + f"); wrong {wrong or 0}, stuck {stuck or 0}, leaks {leaks or 0}; first token {statistics.median(slowest):.2f} s "
        f"p50, {max(slowest):.2f} at most",
        "tokens_identical": not wrong,
        "fault_proved": count == len(kinds),
        "ttft_s": round(max(slowest), 3),
        "tokens_loaded": None,
        "tokens_computed": None,
        "leaks": {},
    }
