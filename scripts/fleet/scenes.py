"""Scenes without faults, and those of engines: what is shared, and what is refused."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from processes import MODEL, until
from stage import BLOCKS, PREFIX, announced, engines, saved, sealed, stalls, with_ratio


def cold(stage):
    before = saved(stage, "a")
    result = stage.scene("cold", "a", 1, loaded=0)
    stage.cold_ttft[1] = result["ttft_s"]
    until(10, "a holds the prompt's blocks", lambda: saved(stage, "a") >= before + BLOCKS)
    return result


def own_node(stage):
    stage.servers["a"].reset()
    return stage.scene("own node", "a", 1, loaded=PREFIX)


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


def client_gone(stage, number):
    """The client hangs up while its prompt's prefix is on its way; the next one gets it."""
    node = stage.nodes["b"]
    stage.compute(number)
    stalled = stalls(stage)
    # Slow enough for the answer not to be whole before the client has gone, and not so slow that it would rightly be
    # computed.
    stage.relay.rate = 3e7
    connection = stage.post("b", stage.prompt(number))
    until(
        10, "the question waits", lambda: node.report()["pulling"] == 1 or stalls(stage) != stalled
    )
    report = node.report()
    was_waiting, pulled = report["waiting"] == 1, report["blocksPulled"]
    connection.close()
    began = time.monotonic()
    until(10, "the question is over", lambda: node.report()["waiting"] == 0)
    over = time.monotonic() - began
    # Not because all of it had come.
    until(10, "the pull is over", lambda: node.report()["pulling"] == 0)
    came = node.report()["blocksPulled"] - pulled
    is_cancelled = came < BLOCKS - 1
    stage.relay.rate = None
    result = stage.scene("client gone", "b", number, loaded=PREFIX)
    result["fault_proved"] = was_waiting
    # A healthy source that was given up after the client had gone says nothing about that.
    result["has_happened"] = was_waiting and (result["ok"] or stalls(stage) == stalled)
    result["outcome"] += f"; the question was over {over:.2f} s after the client, {came} of {BLOCKS} blocks after it"
    result["ok"] = result["ok"] and was_waiting and is_cancelled
    return result


def engine_killed(stage):
    """All of server b is killed and started again: its node has what it computed."""
    number = 6
    before = saved(stage, "b")
    first = stage.scene("engine killed", "b", number, loaded=0)
    until(10, "b holds the prompt's blocks", lambda: saved(stage, "b") >= before + BLOCKS)
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


def new_epoch(stage):
    """The cache of server b is reset with its external part while a request runs: from then on b loads and saves
    nothing that rests on what was computed before, and shares what it computes anew with itself."""
    running, fresh = 13, 14
    server = stage.servers["b"]
    for number in (running, fresh):
        stage.compute(number)
    until(10, "b knows what a holds", lambda: announced(stage, "b") >= sealed(stage, "a"))
    with ThreadPoolExecutor(1) as pool:
        # What a request that runs has keeps the engine's own cache from being reset.
        asked = pool.submit(stage.ask, "b", stage.prompt(running), 150)
        until(20, "a request runs", lambda: server.counter("vllm:num_requests_running") == 1)
        server.reset(external=True)
        was_running = not asked.done()
        asked.result()
    # Ranks let the old pool go with their next step, and only then there is memory for another.
    stage.ask("b", stage.text[5:60], tokens=2)
    until(10, "node b has its engine", lambda: engines(stage, "b") == 1 and sealed(stage, "b") == 0)
    before = server.token_counts()["local"]
    answer, _ = stage.ask("b", stage.prompt(running))
    was_kept = server.token_counts()["local"] - before == PREFIX
    first = stage.scene("new epoch", "b", fresh, loaded=0)
    until(10, "b holds the prompt's blocks", lambda: sealed(stage, "b") >= BLOCKS)
    # Its prompt's, and at most one that it has generated; the other request would have as many.
    found = sealed(stage, "b")
    only_new = found <= BLOCKS + 1
    server.reset()
    result = stage.scene("new epoch", "b", fresh, loaded=PREFIX)
    result["tokens_identical"] = (
        result["tokens_identical"] and first["tokens_identical"] and answer == stage.golden[running]
    )
    result["fault_proved"] = was_running and was_kept
    result["ok"] = (
        result["ok"] and first["ok"] and only_new and result["fault_proved"]
        and result["tokens_identical"]
    )
    result["outcome"] += f"; {found} blocks were saved, of one prompt of {BLOCKS}; kept beside it: {was_kept}"
    stage.restart_servers(names=("b",))
    return result


def refused(stage, name, field, flags=(), model=None):
    """Server b is another one, that must share nothing: refused by name, and served cold."""
    number = 1
    stage.servers["b"].end()
    stage.start_server("b", flags=flags, model=model)
    stage.servers["b"].wait_until_ready()
    until(20, "node b has its engine", lambda: engines(stage, "b") == 1)
    stage.ask("b", stage.text[5:60], tokens=2)
    before = stage.nodes["b"].report()["blocksPulled"]
    result = stage.scene(name, "b", number, loaded=0)
    if flags or model:
        # Another type, or another model, has tokens of its own: computed twice they are the same.
        stage.servers["b"].reset()
        again, _ = stage.ask("b", stage.prompt(number))
        if field != "hash scheme":
            result["tokens_identical"] = again == result["answer"]
            result["ok"] = result["tokens_identical"] and result["tokens_loaded"] == 0
    mismatches = [member.get("mismatch") for member in stage.nodes["b"].report()["members"]]
    pulled = stage.nodes["b"].report()["blocksPulled"] - before
    result["fault_proved"] = any(field in (text or "") for text in mismatches)
    result["outcome"] += f"; {(mismatches[0] or 'no word')[:300]}"
    result["ok"] = result["ok"] and result["fault_proved"] and pulled == 0
    stage.servers["b"].end()
    stage.start_server("b")
    stage.servers["b"].wait_until_ready()
    stage.wait_until_connected()
    return result


def other_hash(stage):
    """Server b hashes its blocks another way."""
    return refused(
        stage, "other hash", "hash scheme", flags=["--prefix-caching-hash-algo", "sha256"]
    )


def other_type(stage):
    """Server b computes in another type."""
    return refused(stage, "other type", "layout", flags=["--dtype", "bfloat16"])


def other_model(stage):
    """Server b has other weights of the same shape: one bit of them differs."""
    folder = stage.folder / "other-model"
    shutil.copytree(MODEL, folder)
    weights = next(folder.glob("*.safetensors"))
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    result = refused(stage, "other model", "model", model=folder)
    shutil.rmtree(folder)
    return result
