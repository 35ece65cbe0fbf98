"""64 greedy tokens from llama.cpp and from remote-g2, on the same weights.

llama.cpp reads an F32 file made here: on the quantised file it would also quantise activations.
"""
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

import gguf
import numpy
import xllamacpp

SOURCE, TARGET, PROGRAM = sys.argv[1:4]
TOKENS, TIE = 64, 0.05
PROMPTS = [
    "Once upon a time",
    "The three laws of motion are",
    "In 1984, there were",
    "def fibonacci(n):\n",
]


def convert():
    """Writes the dequantised weights with the same metadata."""
    reader = gguf.GGUFReader(SOURCE)
    writer = gguf.GGUFWriter(TARGET + ".part", "llama")
    skipped = {"general.architecture", "general.file_type", "general.quantization_version"}
    for field in reader.fields.values():
        if field.name in skipped or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, element)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(TARGET + ".part", TARGET)


def ask(base, path, body):
    request = urllib.request.Request(
        base + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def reference():
    """Per prompt: its ids, the tokens, and the gap between the two best at each step."""
    params = xllamacpp.CommonParams()
    params.model.path = TARGET
    params.n_gpu_layers = 0
    params.n_ctx = 512
    params.n_parallel = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.no_extra_bufts = True
    params.warmup = False
    params.verbosity = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    base = server.listening_address
    found = []
    for prompt in PROMPTS:
        ids = ask(base, "/tokenize", {"content": prompt, "add_special": False})["tokens"]
        reply = ask(base, "/completion", {
            "prompt": ids, "n_predict": TOKENS, "temperature": 0, "top_k": 1,
            "samplers": ["top_k"], "repeat_penalty": 1, "n_probs": 2, "return_tokens": True,
            "post_sampling_probs": False, "cache_prompt": False})
        gaps = [step["top_logprobs"][0]["logprob"] - step["top_logprobs"][1]["logprob"]
                for step in reply["completion_probabilities"]]
        found.append((ids, reply["tokens"], gaps))
    return found


def ours(prompts):
    with tempfile.TemporaryDirectory() as folder:
        worker = subprocess.Popen(
            [PROGRAM, "worker", "--name", "R", "--port", "7997", "--run-dir", folder, "--linger",
             "0", "--model", SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        results = []
        for number, ids in enumerate(prompts):
            worker.stdin.write(json.dumps(
                {"cmd": "generate", "id": number, "prompt": ids, "max": TOKENS}) + "\n")
            worker.stdin.flush()
            for line in worker.stdout:
                event = json.loads(line)
                if event["event"] == "error":
                    sys.exit("reference: " + event["message"])
                if event["event"] == "result":
                    results.append(event["result"]["tokens"])
                    break
        worker.stdin.close()
        worker.wait()
        return results


def main():
    if not os.path.exists(TARGET):
        convert()
    golden = reference()
    failed = False
    for prompt, (ids, tokens, gaps), mine in zip(
            PROMPTS, golden, ours([ids for ids, _, _ in golden])):
        same = 0
        while same < min(len(tokens), len(mine)) and tokens[same] == mine[same]:
            same += 1
        ties = [step for step, gap in enumerate(gaps) if gap < TIE]
        is_equal = same == len(tokens) == len(mine)
        is_tie = not is_equal and same in ties
        failed = failed or not (is_equal or is_tie)
        print(f"{prompt!r}: {same} of {len(tokens)} tokens equal; near-ties at {ties}"
              + ("; parted at a near-tie" if is_tie else "" if is_equal else "; DIFFERENT"))
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
