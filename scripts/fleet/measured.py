"""Scenes that measure: pairs of prompts, a workload behind nginx, what misses and saving cost."""

import json
import os
import signal
import statistics
import time
from pathlib import Path

from processes import until
from stage import BLOCKS, PORTS, PREFIX, TOKENS
from workload import Nginx, play, summary


def pairs(stage):
    """Ten times: a prompt computed by b, and one pulled by b, in turn; medians are compared."""
    stage.is_relayed = False
    stage.restart_node("b")
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
    # Other scenes' faults happen in the relay.
    stage.is_relayed = True
    stage.restart_node("b")
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
    """Ten prefixes with tails of their own, dealt round-robin, without the connector and with it.

    Each server has one thread to compute with, on either side: two of two threads each on two processors wait for one
    another at every barrier, and then a step of decoding takes half a second."""
    count = stage.requests
    prefixes = [stage.prompt(100 + number, PREFIX) for number in range(10)]
    prompts = [
        prefixes[number % 10] + stage.prompt(1000 + number, 64) for number in range(count)
    ]
    sides = {}
    for side in ("on", "off"):
        for process in [*stage.servers.values(), *stage.nodes.values()]:
            process.end()
        for name in PORTS:
            stage.start_node(name)
            stage.start_server(name, plain=side == "off", threads=1)
        for name in PORTS:
            stage.servers[name].wait_until_ready()
        for name in PORTS:
            stage.ask(name, stage.text[5:60], tokens=2)
            stage.servers[name].reset()
        if side == "on":
            stage.wait_until_connected()
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


def times_of(stage, name):
    path = stage.folder / f"times-server-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def forget_times(stage, name):
    (stage.folder / f"times-server-{name}.jsonl").write_text("")


def at(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def measured(name, ok, outcome, identical=True, proved=None, seconds=0.0):
    return {
        "name": name,
        "ok": ok,
        "outcome": outcome,
        "tokens_identical": identical,
        "fault_proved": proved,
        "ttft_s": round(seconds, 3),
        "tokens_loaded": None,
        "tokens_computed": None,
        "leaks": {},
    }


def source_pairs(stage):
    """In turn: a prompt that b computes, and one whose source is stopped, or killed, in the middle of its pull."""
    stage.restart_servers(connector={"b": ("rg2_timed", "TimedConnector")}, names=("b",))
    stage.is_relayed = True
    times = {"cold": [], "stopped": [], "killed": []}
    identical, proved, decided = True, 0, []
    for pair in range(stage.pairs):
        kind = ("stopped", "killed")[pair % 2]
        number = 400 + 2 * pair
        _, seconds = stage.ask("b", stage.prompt(number), tokens=2)
        times["cold"].append(seconds)
        stage.compute(number + 1)
        time.sleep(1.5)
        forget_times(stage, "b")
        node, happened = stage.nodes["a"], []

        def fault():
            node.signal(signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
            happened.append(kind)

        before = stage.nodes["b"].report()["blocksPulled"]
        # In the first block, so that nearly all of it is to be computed.
        stage.relay.arm(4 << 20, fault)
        result = stage.scene("source pairs", "b", number + 1, loaded=lambda count: count < PREFIX)
        stage.relay.disarm()
        identical = identical and result["tokens_identical"]
        came = stage.nodes["b"].report()["blocksPulled"] - before
        if happened and came < BLOCKS:
            proved += 1
            times[kind].append(result["ttft_s"])
            decided += [line["decided_ms"] for line in times_of(stage, "b") if line.get("decided_ms")]
        if kind == "stopped":
            node.signal(signal.SIGCONT)
        else:
            node.end()
            stage.start_node("a")
        stage.wait_until_connected()
    stage.restart_servers(names=("b",))
    medians = {kind: statistics.median(found) for kind, found in times.items() if found}
    ratios = {kind: medians[kind] / medians["cold"] for kind in ("stopped", "killed") if kind in medians}
    # Where no fault fell into a pull nothing was decided, and the scene says NO.
    p95 = at(decided, 0.95) if decided else float("inf")
    return measured(
        "source pairs",
        identical and proved >= stage.pairs - 2 and all(ratio <= 1.05 for ratio in ratios.values())
        and p95 <= 150,
        f"{proved} of {stage.pairs} faults fell into the pull; cold {medians['cold']:.3f} s, TTFT to cold "
        + ", ".join(f"{kind} {ratio:.3f}" for kind, ratio in ratios.items())
        + f" (bound 1.05); from arrival to the decision {at(decided, 0.5):.0f} ms p50, {p95:.0f} p95 (bound 150), "
        f"{max(decided):.0f} at most",
        identical,
        proved > 0,
        medians["cold"],
    )


def misses(stage):
    """Prompts that nobody holds: how many steps they are kept waiting, and what the scheduler half costs."""
    stage.restart_servers(connector={"b": ("rg2_timed", "TimedConnector")}, names=("b",))
    forget_times(stage, "b")
    count = 60
    for number in range(count):
        stage.ask("b", stage.prompt(500 + number, 300), tokens=4)
    lines = times_of(stage, "b")
    again = [line["again"] for line in lines if line.get("again") is not None]
    steps = [line for line in lines if "us" in line and line["tokens"]]
    spent, own = [line["us"] for line in steps], [line["own_us"] for line in steps]
    plain = [line["plain_us"] for line in steps]
    none, most = sum(one == 0 for one in again) / len(again), max(again)
    # By the clock a step also has the time in which other processes had the processor, and so has a plain loop that
    # takes 150 us alone. What the connector would take alone, at three places of both distributions:
    alone = [150 * at(spent, place) / at(plain, place) for place in (0.5, 0.95, 0.99)]
    stage.restart_servers(names=("b",))
    return measured(
        "misses",
        none >= 0.95 and most <= 1 and max(spent) <= 200,
        f"{len(again)} requests: {none:.0%} waited no step (bound 95), the rest {most} at most (bound 1); {len(spent)} "
        f"steps: in the connector {at(spent, 0.5):.0f} us p50, {at(spent, 0.95):.0f} p95, "
        f"{at(spent, 0.99):.0f} p99, {max(spent):.0f} at most by the clock (judged; bound 200); a plain loop of 150 us in the same "
        f"steps {at(plain, 0.5):.0f} p50, {at(plain, 0.95):.0f} p95, {at(plain, 0.99):.0f} p99, {max(plain):.0f} at most; "
        f"by that the connector alone would take {' / '.join(f'{one:.0f}' for one in alone)} us at p50 / p95 / p99 "
        "(beside it); "
        f"processor time {at(own, 0.5):.0f} p50, {at(own, 0.95):.0f} p95, "
        f"{at(own, 0.99):.0f} p99, {max(own):.0f} at most",
    )


def busy_seconds(pids):
    """Processor time of all threads of processes so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (OSError, ValueError):
                pass
    return total / 1e9


def saving(stage):
    """What saving costs: the node's processor time for a cold prompt, and the engine's in the connector."""
    stage.restart_servers(connector={"b": ("rg2_timed", "TimedConnector")}, names=("b",))
    node, server, shares, parts = stage.nodes["b"], stage.servers["b"], [], []
    for number in range(stage.pairs):
        forget_times(stage, "b")
        before = busy_seconds([node.pid]), busy_seconds(server.session())
        blocks = sum(pool["saves"].get("sealed", 0) for pool in node.report()["pools"])
        stage.ask("b", stage.prompt(600 + number), tokens=1)
        until(
            10,
            "the blocks are saved",
            lambda: sum(pool["saves"].get("sealed", 0) for pool in node.report()["pools"])
            >= blocks + BLOCKS,
        )
        time.sleep(0.2)
        own = busy_seconds([node.pid]) - before[0]
        whole = busy_seconds(server.session()) - before[1]
        stage.ask("b", stage.text[5:40], tokens=1)
        lines = times_of(stage, "b")
        staged = sum(line.get("stage_us", 0) for line in lines) / 1e6
        scheduled = sum(line.get("us", 0) for line in lines) / 1e6
        shares.append((own + staged + scheduled) / whole)
        parts.append((own, staged, scheduled, whole))
    share = statistics.median(shares)
    own, staged, scheduled, whole = (statistics.median(part) for part in zip(*parts))
    stage.restart_servers(names=("b",))
    return measured(
        "saving",
        share <= 0.03,
        f"{stage.pairs} cold prompts of {TOKENS} tokens: node {own * 1e3:.0f} ms, staging {staged * 1e3:.0f} ms, "
        f"scheduler half {scheduled * 1e3:.1f} ms, of {whole:.2f} s of processor time: {share:.2%} (bound 3 %)",
    )
