"""`make chaos-vllm`: faults thrown at nodes, the network and engines while stock vLLM asks for prefixes."""

import collections
import os
import random
import shutil
import signal
import statistics
import subprocess
import threading
import time

from processes import ROOT, Failed, until
from stage import announced, sealed

class WrongTokens(Exception):
    """Other tokens than before, where nothing is shared."""


# Short enough for a hundred faults, long enough for a stream to be under way.
LENGTH, TOKENS = 1100, 8
PROMPTS = 6
# Others, which nobody holds when they are saved.
SAVED, PROMPTS_SAVED = 790, 2


class Chaos:
    def __init__(self, stage):
        self.stage, self.chance = stage, random.Random(stage.seed)
        # Prompts that a's node has, whichever process serves it.
        self.held = set()
        # By node: what kills its process that serves, and what ends all of it.
        self.followed = {"a": {"source's process killed"}, "b": {"own process killed", "process killed while saving"}}
        self.ended = {
            "a": {"source killed", "source's keeper killed", "source leaves"},
            "b": {"own node killed", "killed while saving"},
        }
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
            "source's process killed": self.source_process_killed,
            "own process killed": self.own_process_killed,
            "process killed while saving": self.process_killed_while_saving,
            "source's keeper killed": self.source_keeper_killed,
            "source leaves": self.source_leaves,
        }
        if stage.certificates:
            self.faults["not believed"] = self.not_believed

    def empty(self):
        """b's engine and node hold nothing."""
        stage = self.stage
        stage.servers["b"].reset()
        if stage.nodes["b"].report()["pools"] and sealed(stage, "b"):
            stage.restart_node("b")

    def prepare_saving(self, number):
        """Nobody holds the prompt; b has computed it before."""
        if number not in self.stage.golden:
            self.empty()
            self.stage.golden[number], _ = self.stage.ask("b", self.stage.prompt(number, LENGTH), TOKENS)
            until(10, "b has saved the prompt", lambda: sealed(self.stage, "b") >= (LENGTH - 1) // 128)
        self.empty()

    def prepare(self, number):
        """a holds the prompt, b's engine and node hold nothing."""
        stage = self.stage
        if number not in self.held:
            stage.servers["a"].reset()
            answer, _ = stage.ask("a", stage.prompt(number, LENGTH), TOKENS)
            if stage.golden.setdefault(number, answer) != answer:
                raise WrongTokens(f"a's own tokens of prompt {number} are others than before")
            self.held.add(number)
        self.empty()
        until(10, "a holds the prompts", lambda: sealed(stage, "a") >= len(self.held) * ((LENGTH - 1) // 128))
        until(10, "b knows it", lambda: announced(stage, "b") == sealed(stage, "a"))

    def lives(self):
        """By node: the process that was started, and how many have served for it."""
        return {name: (node, node.report()["adoption"]["life"]) for name, node in self.stage.nodes.items()}

    def check_lives(self, before, kind, has_happened):
        """Nobody has died but who was killed."""
        for name, (node, life) in self.lives().items():
            if node is not before[name][0]:
                if kind not in self.ended[name]:
                    raise Failed(f"node {name} is another, and nobody ended it")
            elif life - before[name][1] != (has_happened and kind in self.followed[name]):
                raise Failed(f"node {name} is served by its process {life}, and was by {before[name][1]}: {node.last_words()}")

    def play(self, kind, number):
        """(whether the fault happened, whether the tokens were right, seconds to the first)"""
        if "saving" in kind:
            number = SAVED + number % PROMPTS_SAVED
            self.prepare_saving(number)
        else:
            self.prepare(number)
        happened, before = [], self.lives()
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
        self.check_lives(before, kind, bool(happened))
        return bool(happened), answer == self.stage.golden[number], seconds

    def start_source(self):
        self.stage.start_node("a")
        self.held.clear()

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
                self.start_source()

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
        # Not so slow that it would rightly be computed.
        self.stage.relay.rate = 3e7

        def undo():
            self.stage.relay.rate = None

        return undo

    def killed_while_saving(self, happened):
        node = self.stage.nodes["b"]
        return self.while_saving(node, happened, lambda: node.signal(signal.SIGKILL) or True, is_all_of_it=True)

    def process_killed_while_saving(self, happened):
        node = self.stage.nodes["b"]
        return self.while_saving(node, happened, node.kill_serving, is_all_of_it=False)

    def while_saving(self, node, happened, kill, is_all_of_it):
        over = threading.Event()

        def watch():
            while not over.is_set():
                try:
                    report = node.report()
                except Failed:
                    return
                if sum(pool["staged"] for pool in report["pools"]):
                    if kill():
                        happened.append("killed")
                    return
                time.sleep(0.001)

        watching = threading.Thread(target=watch)
        watching.start()

        def undo():
            over.set()
            watching.join()
            if happened and is_all_of_it:
                node.end()
                self.stage.start_node("b")

        return undo

    # Of nodes with keepers: the process that serves is followed by one that takes over what it held.

    def process_killed(self, node, happened):
        def fault():
            if node.kill_serving():
                happened.append("killed")

        self.after_some_bytes(fault)
        return lambda: None

    def source_process_killed(self, happened):
        return self.process_killed(self.stage.nodes["a"], happened)

    def own_process_killed(self, happened):
        return self.process_killed(self.stage.nodes["b"], happened)

    def source_keeper_killed(self, happened):
        """The process that serves ends with its keeper."""
        node, seen = self.stage.nodes["a"], []

        def fault():
            serving = node.serving
            if serving:
                seen.append(serving)
                os.kill(node.pid, signal.SIGKILL)

        self.after_some_bytes(fault)

        def undo():
            if seen:
                until(5, "the process that serves ends with its keeper", lambda: not os.path.exists(f"/proc/{seen[0]}"))
                happened.append("killed")
                node.end()
                self.start_source()

        return undo

    def source_leaves(self, happened):
        """It is stopped as its operator would, in the middle of an answer, which it ends."""
        node, seen = self.stage.nodes["a"], []
        before = self.stage.nodes["b"].report()["blocksPulled"]

        def fault():
            node.signal(signal.SIGTERM)
            seen.append("told")

        self.after_some_bytes(fault)

        def undo():
            if seen:
                until(15, "the source has left", lambda: not node.is_alive)
                if node.child.returncode != 0:
                    raise Failed(f"a node that was told to leave ended with {node.child.returncode}")
                # One that was given up, or cut, has not been ended.
                if self.stage.nodes["b"].report()["blocksPulled"] - before == (LENGTH - 1) // 128:
                    happened.append("left")
                node.end()
                self.start_source()

        return undo

    def not_believed(self, happened):
        """b does not believe a's certificate any more, and its connections end."""
        folder, node, seen = self.stage.certificates, self.stage.nodes["b"], []

        def refusals():
            return sum(node.report()["handshakeRefusals"].values())

        before = refusals()

        def fault():
            replace(folder / "stranger" / "authority.crt", folder / "b.authority")
            self.stage.relay.cut()
            seen.append("cut")

        self.after_some_bytes(fault)

        def undo():
            try:
                if seen:
                    # It looks at its files when it connects, twice a second at most.
                    until(15, "b refuses a", lambda: refusals() > before or self.stage.relay.cut() or time.sleep(0.3))
                    happened.append("refused")
            finally:
                replace(folder / "authority.crt", folder / "b.authority")

        return undo


def replace(source, target):
    """In one piece, as certificates are renewed."""
    new = target.with_suffix(".new")
    shutil.copy(source, new)
    new.rename(target)


def certify(stage):
    """Each node has a certificate, and believes the authority that its own file names."""
    folder = stage.folder / "certificates"
    for place, names in (folder, ("a", "b")), (folder / "stranger", ("c",)):
        subprocess.run([ROOT / "scripts" / "certificates", place, *names], check=True, stdout=subprocess.DEVNULL)
    for name in ("a", "b"):
        replace(folder / "authority.crt", folder / f"{name}.authority")
    return folder


def play(stage):
    """With keepers, and but for --open with certificates; what comes after it has neither."""
    stage.is_kept, stage.certificates = True, None if stage.is_open else certify(stage)
    restart(stage)
    try:
        return throw(stage)
    finally:
        stage.is_kept, stage.certificates = False, None
        restart(stage)


def restart(stage):
    for name in stage.nodes:
        stage.nodes[name].end()
        stage.start_node(name)
    stage.wait_until_connected()


def throw(stage):
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
        except WrongTokens as problem:
            wrong.append(f"{kind} ({place}): {problem}")
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
