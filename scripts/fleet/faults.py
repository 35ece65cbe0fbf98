"""Scenes of nodes and networks that fail in the middle of something."""

import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from processes import Failed, Node, until
from stage import BLOCKS, PREFIX, replayed, with_ratio


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


def killed_before_copy(stage, number):
    """b's own node has promised the prompt's blocks; it dies before any rank has copied one, and another node, with
    another pool, takes its place. (That another pool's bytes are refused by its name is shown by the node's tests.)"""
    stage.compute(number)
    node = stage.nodes["b"]
    # b's node holds them all: what it answers, it answers at once.
    stage.scene("warm", "b", number, loaded=PREFIX)
    stage.servers["b"].reset()
    workers = stage.servers["b"].workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    # A stopped worker takes no plan: the scheduler half has bound it, and nothing is copied.
    before = stage.servers["b"].token_counts()
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(stage.ask("b", stage.prompt(number)))
    )
    asking.start()
    held = 0

    def is_promised():
        nonlocal held
        held = sum(pool["leases"] for pool in node.report()["pools"])
        return held

    try:
        until(10, "the prompt's blocks are promised", is_promised)
        node.signal(signal.SIGKILL)
        node.end()
        stage.start_node("b")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    asking.join()
    after = stage.servers["b"].token_counts()
    answer, ttft = answers[0]
    identical = answer == stage.golden[number]
    stage.wait_until_connected()
    loaded = int(after["loaded"] - before["loaded"])
    return {
        "name": "killed before copy",
        "ok": identical and held > 0 and bool(workers),
        "has_happened": held > 0,
        "outcome": f"{held} lease when it died, {len(workers)} workers stopped; {loaded} tokens were to be loaded",
        "tokens_identical": identical,
        "fault_proved": held > 0 and bool(workers),
        "ttft_s": round(ttft, 3),
        "tokens_loaded": loaded,
        "tokens_computed": None,
        "leaks": {},
    }


def killed_while_staging(stage, number):
    """b's own node dies while what b has computed is being staged and copied."""
    node, seen = stage.nodes["b"], []

    def watch():
        while not seen and node.is_alive:
            try:
                report = node.report()
            except Failed:
                return
            under_way = sum(pool["staged"] + pool["writing"] for pool in report["pools"])
            if under_way:
                node.signal(signal.SIGKILL)
                seen.append(under_way)

    watching = threading.Thread(target=watch)
    watching.start()
    result = stage.scene("killed while staging", "b", number, loaded=0)
    watching.join()
    node.end()
    stage.start_node("b")
    stage.wait_until_connected()
    # The engine goes on, and saves with the new node what it still has.
    again = stage.scene("killed while staging", "b", number, loaded=lambda count: True)
    result["fault_proved"] = result["has_happened"] = bool(seen)
    result["outcome"] += f"; {seen} blocks were under way"
    result["ok"] = result["ok"] and again["ok"] and bool(seen)
    return result


def stopped_with_many_pending(stage, number):
    """b's own node is stopped while fifty requests wait for it: all are computed when their time is over, and the
    scheduler of b does not wait for the node at all."""
    # Long enough for all fifty to come before the first has waited for as long as computing takes.
    count, length, patience = 5, 1500, 8.0
    # vLLM asks for as many requests as it has tokens and blocks for, and a step computes for seconds: with its defaults
    # what is measured is its queue. Here it asks for all fifty in every step.
    room = ("--max-num-batched-tokens", 16384, "--num-gpu-blocks-override", 256)
    stage.restart_servers(
        connector={"b": ("rg2_timed", "TimedConnector")}, names=("b",), flags=room
    )
    prompts = {number + place: stage.prompt(number + place, length) for place in range(count)}
    for other in prompts:
        stage.compute(other, length)
    times = stage.folder / "times-server-b.jsonl"
    times.write_text("")
    node, waiting = stage.nodes["b"], 0
    # As fast as they come until it is known that this is worth waiting for, and then so slow that no answer is whole
    # before the node is stopped; never silent.
    stage.relay.rate, stage.relay.slow_after = 2e5, 20 << 20
    asked_for = list(prompts) * 10
    with ThreadPoolExecutor(len(asked_for)) as pool:
        asked = [pool.submit(stage.ask, "b", prompts[other], 4) for other in asked_for]
        deadline = time.monotonic() + 20
        while waiting < 45 and time.monotonic() < deadline:
            report = node.report()
            waiting = report["waiting"]
        shortfalls = report["shortfalls"]
        began = time.monotonic()
        node.signal(signal.SIGSTOP)
        answers = [one.result() for one in asked]
        whole = time.monotonic() - began
    node.signal(signal.SIGCONT)
    stage.relay.rate, stage.relay.slow_after = None, 0
    stage.wait_until_connected()
    identical = all(
        answer == stage.golden[other][:4] for (answer, _), other in zip(answers, asked_for)
    )
    lines = [json.loads(line) for line in times.read_text().splitlines()]
    steps = [line for line in lines if "us" in line]
    spent, own = (sorted(step[what] for step in steps) for what in ("us", "own_us"))
    # By the clock a step also has the time in which other processes had the processor.
    worst, median = own[int(len(own) * 0.99)], spent[len(spent) // 2]
    # In the steps before it was stopped fifty requests came.
    stopped = max((step["us"] for step in steps if step["at"] > began), default=float("inf"))
    decided = max(line["decided_ms"] for line in lines if line.get("decided_ms")) / 1e3
    # A decision also waits for vLLM's turn to ask; until this the library said that it is not known yet.
    kept = max(line["kept_ms"] for line in lines if "kept_ms" in line) / 1e3
    pending = max(line["pending"] for line in lines if "us" in line)
    slowest = max(first for _, first in answers)
    stage.restart_servers(names=("b",))
    return {
        "name": "stopped with 50 pending",
        "ok": identical and waiting >= 45 and spent[-1] <= 500 and decided <= patience,
        "outcome": f"{waiting} questions were open at the node and {pending} in the engine when it was stopped "
        f"(answered with less before, since b's node was started: {shortfalls}); "
        f"{len(spent)} steps, connector {median:.0f} us p50 and {spent[-1]:.0f} at most by the clock (bound 500), {stopped:.0f} at most while the node was stopped, {worst:.0f} p99 of processor time; "
        f"it was decided to compute after {decided:.2f} s at most (bound {patience:.0f}), the library kept nobody waiting for longer than {kept:.2f} s; all answered {whole:.1f} s later, the last first "
        f"token after {slowest:.1f} s",
        "tokens_identical": identical,
        "fault_proved": waiting >= 45,
        # That a stopped node takes its member for silent when it goes on is no reason to begin again.
        "has_happened": waiting >= 45,
        "ttft_s": round(slowest, 3),
        "tokens_loaded": None,
        "tokens_computed": None,
        "leaks": {},
    }


def pool_full(stage, number):
    """b's node has memory for five blocks: what does not fit is computed."""
    stage.compute(number)
    stage.restart_node("b", memory="30MiB")
    result = stage.scene("pool full", "b", number, loaded=lambda count: count < PREFIX)
    pools = stage.nodes["b"].report()["pools"]
    slots = sum(pool["slots"] for pool in pools)
    result["fault_proved"] = 0 < slots < BLOCKS
    result["outcome"] += f"; {slots} slots for {BLOCKS} blocks"
    result["ok"] = result["ok"] and result["fault_proved"]
    stage.restart_node("b")
    return with_ratio(stage, result, number)


def cut(stage, number):
    """a's node is in a network namespace of its own, at the other end of a link that goes down in mid-stream: no
    packet says that anything ended."""
    tag = f"rg2v{os.getpid() % 10000}"
    near, far = f"{tag}h", f"{tag}n"
    addresses = {"near": "10.99.8.1", "far": "10.99.8.2"}

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", tag)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", tag)
        ip("addr", "add", f"{addresses['near']}/24", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", tag, "addr", "add", f"{addresses['far']}/24", "dev", far)
        ip("-n", tag, "link", "set", far, "up")
        ip("-n", tag, "link", "set", "lo", "up")
        # Slow enough for the link to go down in the middle.
        subprocess.run(
            ["tc", "-n", tag, "qdisc", "add", "dev", far, "root", "tbf", "rate", "600mbit"]
            + ["burst", "256kb", "latency", "400ms"],
            check=True,
        )
        for name in ("a", "b"):
            stage.nodes[name].end()
        stage.nodes["a"] = stage.started(
            Node(
                "a", 7101, {"b": f"{addresses['near']}:7111"}, stage.folder,
                host=addresses["far"], space=tag,
            )
        )
        stage.nodes["b"] = stage.started(
            Node(
                "b", 7111, {"a": f"{addresses['far']}:7101"}, stage.folder,
                host=addresses["near"],
            )
        )
        stage.wait_until_connected()
        stage.compute(number)
        before, happened = stage.nodes["b"].report()["blocksPulled"], []

        def watch():
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                came = stage.nodes["b"].report()["blocksPulled"] - before
                if came >= 2:
                    ip("link", "set", near, "down")
                    happened.append(came)
                    return
                time.sleep(0.002)

        watching = threading.Thread(target=watch)
        watching.start()
        result = stage.scene("cut", "b", number, loaded=lambda count: 0 <= count < PREFIX)
        watching.join()
        pulled = stage.nodes["b"].report()["blocksPulled"] - before
        ends = stage.nodes["b"].report()["members"][0]["ends"]
        result["fault_proved"] = bool(happened) and 0 < pulled < BLOCKS
        result["has_happened"] = bool(happened)
        result["outcome"] += f"; {pulled} blocks came, the link went down after {happened}; {ends}"
        result["ok"] = result["ok"] and result["fault_proved"]
        ip("link", "set", near, "up")
        stage.wait_until_connected()
        return with_ratio(stage, result, number)
    finally:
        for name in ("a", "b"):
            stage.nodes[name].end()
        subprocess.run(["ip", "netns", "del", tag], check=False)
        subprocess.run(["ip", "link", "del", near], check=False, stderr=subprocess.DEVNULL)
        for name in ("a", "b"):
            stage.start_node(name)
        stage.wait_until_connected()
