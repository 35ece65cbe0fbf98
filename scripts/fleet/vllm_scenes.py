"""`make vllm`: two stock vLLM servers, each beside a node of ours, share one cache over plain TCP."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import chaos
import faults
import measured
import ranks
import scenes
from processes import Failed
from stage import Stage, replayed

SCENES = {
    "cold": scenes.cold,
    "own node": scenes.own_node,
    "pull": replayed(scenes.pull, 1),
    "source killed": faults.source_fault("source killed", 2, [signal.SIGKILL]),
    "source stopped": faults.source_fault("source stopped", 3, [signal.SIGSTOP, signal.SIGCONT]),
    "cut": replayed(faults.cut, 7),
    "own node killed": replayed(faults.own_node_killed, 4),
    "killed before copy": replayed(faults.killed_before_copy, 8),
    "killed while staging": replayed(faults.killed_while_staging, 9),
    "client gone": replayed(scenes.client_gone, 5),
    "pool full": replayed(faults.pool_full, 10),
    "engine killed": scenes.engine_killed,
    "new epoch": scenes.new_epoch,
    "twin": replayed(ranks.twin, 11),
    "other hash": scenes.other_hash,
    "other type": scenes.other_type,
    "other model": scenes.other_model,
    "TP 3 pull": replayed(ranks.pull_by_three, 12),
    "a rank's copy": replayed(ranks.corrupted_rank, 12),
}
# Those for which no server is started again.
QUICK = [
    "cold",
    "own node",
    "pull",
    "source killed",
    "source stopped",
    "own node killed",
    "killed before copy",
    "killed while staging",
    "client gone",
    "pool full",
]
# Played when they are named.
NAMED = {
    "pairs": measured.pairs,
    "source pairs": measured.source_pairs,
    "misses": measured.misses,
    "saving": measured.saving,
    "through nginx": measured.through_nginx,
    "50 pending": replayed(faults.stopped_with_many_pending, 300),
    "chaos": chaos.play,
}


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
    parser.add_argument(
        "--quick", action="store_true", help="those for which no server is started again"
    )
    parser.add_argument("--requests", type=int, default=60, help="behind nginx; default: 60")
    parser.add_argument("--faults", type=int, default=100, help="of scene chaos; default: 100")
    parser.add_argument("--seed", type=int, default=1, help="of scene chaos; default: 1")
    parser.add_argument(
        "--open", action="store_true", help="scene chaos: nodes have no certificates, and nothing is encrypted"
    )
    parser.add_argument("--pairs", type=int, default=10, help="of scene pairs; default: 10")
    parser.add_argument(
        "--noisy",
        action="store_true",
        help="on a machine that others use too: a scene whose healthy source was given up three times for want "
        "of processor time is not judged, but for its tokens",
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    arguments = parser.parse_args()
    names = QUICK if arguments.quick else [name.strip() for name in arguments.scenes.split(",")]
    for name in names:
        if name not in SCENES | NAMED:
            parser.error(f"there is no scene '{name}': {', '.join(SCENES | NAMED)}")
    folder = Path(tempfile.mkdtemp(prefix="remote-g2-vllm-"))
    (folder / "run").mkdir(mode=0o700)
    # The relay between the nodes is threads of this process: they do not wait for fifty that ask.
    sys.setswitchinterval(2e-4)
    stage, results, problem = Stage(folder, arguments.requests, arguments.pairs), [], None
    stage.is_noisy = arguments.noisy
    stage.faults, stage.seed, stage.is_open = arguments.faults, arguments.seed, arguments.open
    try:
        print("starting two nodes and two stock vLLM servers (about a minute)", flush=True)
        stage.start()
        for name in names:
            print(f"scene: {name}", flush=True)
            result = (SCENES | NAMED)[name](stage)
            result["leaks"] = stage.audit()
            result.pop("answer", None)
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
