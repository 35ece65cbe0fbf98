"""Scenes with three tensor-parallel ranks, and with ranks whose copies go wrong."""

import json
import threading

from processes import until
from stage import announced, saved, sealed

# Of a prompt for three ranks, which share two processors: enough blocks for every place to be another.
LENGTH = 700


def pull_by_three(stage, number):
    """Computed by three ranks of a, loaded by three ranks of b."""
    if stage.ranks != 3:
        stage.restart_servers(ranks=3, connector={"b": ("rg2_faulty", "FaultyConnector")})
    stage.compute(number, LENGTH)
    blocks = (LENGTH - 1) // 128
    result = stage.scene("TP 3 pull", "b", number, loaded=blocks * 128, length=LENGTH)
    result["outcome"] += f"; TTFT {result['ttft_s'] / stage.cold_ttft[number]:.2f} of cold"
    return result


def corrupted_rank(stage, number):
    """One rank's copy is wrong, at each block in turn: the tokens are right each time, and nothing wrong is ever
    found by anybody else."""
    if stage.ranks != 3:
        stage.restart_servers(ranks=3, connector={"b": ("rg2_faulty", "FaultyConnector")})
    if number not in stage.golden:
        stage.compute(number, LENGTH)
    blocks = (LENGTH - 1) // 128
    fault, log = stage.folder / "fault-server-b.json", stage.folder / "fault-server-b.log"
    log.write_text("")
    identical, loaded, seconds = True, [], []
    for place in range(blocks):
        stage.servers["b"].reset()
        fault.write_text(json.dumps({"ranks": [place % 3], "places": [place]}))
        result = stage.scene("a rank's copy", "b", number, loaded=lambda count: True, length=LENGTH)
        fault.unlink()
        identical = identical and result["tokens_identical"]
        seconds.append(result["ttft_s"])
        # What is in b's node now is right: it is loaded again by b, and by a, from nothing but nodes.
        for name in ("b", "a"):
            stage.servers[name].reset()
            again = stage.scene("after it", name, number, loaded=lambda count: True, length=LENGTH)
            identical = identical and again["tokens_identical"]
            loaded.append(again["tokens_loaded"])
    spoiled = log.read_text().splitlines()
    proved = len(spoiled) == blocks
    return {
        "name": "a rank's copy corrupted",
        "ok": identical and proved and loaded == [blocks * 128] * (2 * blocks),
        "outcome": f"at each of {blocks} blocks: {spoiled}; what was loaded after each: {sorted(set(loaded))}",
        "tokens_identical": identical,
        "fault_proved": proved,
        "ttft_s": round(max(seconds), 3),
        "tokens_loaded": loaded[-1],
        "tokens_computed": None,
        "leaks": {},
    }


def twin(stage, number):
    """A request whose load fails, and twins that arrive in the steps after it: all get the right tokens."""
    stage.restart_servers(connector={"b": ("rg2_faulty", "FaultyConnector")}, names=("b",))
    stage.compute(number)
    fault, log = stage.folder / "fault-server-b.json", stage.folder / "fault-server-b.log"
    log.write_text("")
    # From the fourth block on.
    fault.write_text(json.dumps({"ranks": [0], "places": list(range(3, 20))}))
    answers = []

    def ask():
        answers.append(stage.ask("b", stage.prompt(number)))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    asking[0].start()
    until(20, "the load has failed", lambda: log.read_text())
    for one in asking[1:]:
        one.start()
    for one in asking:
        one.join()
    fault.unlink()
    identical = all(answer == stage.golden[number] for answer, _ in answers)
    stage.restart_servers()
    return {
        "name": "twin",
        "ok": identical and len(answers) == 3,
        "outcome": f"three requests for one prompt: {log.read_text().split(chr(10))[:-1]}, all computed",
        "tokens_identical": identical,
        "fault_proved": bool(log.read_text()),
        "ttft_s": round(max(first for _, first in answers), 3),
        "tokens_loaded": None,
        "tokens_computed": None,
        "leaks": {},
    }
