"""What a vLLM engine's blocks are, in words: engines share when all of them are equal."""

import hashlib
import json
import os
from pathlib import Path

from . import library

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def check(vllm_config, kv_cache_config):
    """Refuses by name what cannot be shared."""
    transfer = vllm_config.kv_transfer_config
    if transfer.kv_role != "kv_both":
        raise ValueError(f'kv_role is "{transfer.kv_role}": RemoteG2Connector needs "kv_both"')
    if getattr(transfer, "kv_load_failure_policy", "recompute") != "recompute":
        raise ValueError(
            f'kv_load_failure_policy is "{transfer.kv_load_failure_policy}": set it to "recompute", or a '
            "failed load fails its request"
        )
    if vllm_config.parallel_config.pipeline_parallel_size != 1:
        raise ValueError("pipeline parallelism is not supported: set --pipeline-parallel-size 1")
    if getattr(vllm_config.parallel_config, "decode_context_parallel_size", 1) != 1:
        raise ValueError("decode context parallelism is not supported")
    if kv_cache_config is None:
        return
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        kinds = ", ".join(type(group.kv_cache_spec).__name__ for group in groups)
        raise ValueError(f"{len(groups)} KV cache groups ({kinds}): only models with one are supported")
    spec = groups[0].kv_cache_spec
    if getattr(spec, "sliding_window", None):
        raise ValueError("a sliding window is not supported: every block must stay valid")


def model(vllm_config, kv_cache_config, engine_version):
    group = kv_cache_config.kv_cache_groups[0]
    spec = group.kv_cache_spec
    layers = len(group.layer_names)
    layout = (
        f"{type(spec).__name__} {getattr(kv_cache_config, 'kv_cache_layout', None)} layers {layers} "
        f"heads {spec.num_kv_heads} size {spec.head_size} {spec.dtype} block {spec.block_size} "
        f"page {spec.page_size_bytes}"
    )
    backend = getattr(getattr(vllm_config, "attention_config", None), "backend", None)
    config = vllm_config.model_config
    resolved = config.hf_config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        resolved.pop(name, None)
    resolved = json.dumps(resolved, sort_keys=True, default=str)
    # Position embeddings of this kind depend on how long a prompt may be.
    longest = config.max_model_len if "longrope" in resolved else 0
    resolved = hashlib.sha256(f"{resolved} {longest}".encode()).hexdigest()[:16]
    numerics = (
        f"vllm {engine_version} attention {backend or 'auto'} {config.dtype} "
        f"quantization {config.quantization} config {resolved}"
    )
    return library.Model(
        model=weights(vllm_config).encode(),
        layout=layout.encode(),
        hash_scheme=hash_scheme(vllm_config).encode(),
        numerics=numerics.encode(),
        weight_epoch=0,
        rank_count=vllm_config.parallel_config.tensor_parallel_size,
        tokens_per_block=spec.block_size,
        block_bytes=spec.page_size_bytes * layers,
    )


def hash_scheme(vllm_config):
    algorithm = vllm_config.cache_config.prefix_caching_hash_algo
    # The chain's root follows from it.
    seed = os.environ.get("PYTHONHASHSEED", "default")
    return f"vllm {algorithm} seed {seed}"


def weights(vllm_config):
    """A name that the operator vouches for, or a digest of the model's files, or the commit they came from."""
    extra = vllm_config.kv_transfer_config.kv_connector_extra_config or {}
    if extra.get("model_id"):
        return f"named:{extra['model_id']}"
    config = vllm_config.model_config
    place = Path(config.model)
    if place.is_file():
        return f"sha256:{digest([place])}"
    if place.is_dir():
        files = [path for path in sorted(place.iterdir()) if path.suffix in WEIGHTS]
        if files:
            return f"sha256:{digest(files)}"
    commit = getattr(config.hf_config, "_commit_hash", None)
    if commit:
        return f"{config.model}@{commit}"
    raise ValueError(
        f"what {config.model} holds cannot be told from here: name it with kv_connector_extra_config "
        '{"model_id": NAME}, the same on all servers that hold the same weights'
    )


def digest(files):
    """Of whole files. Remembered beside the node's socket by their names, sizes and times."""
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    known = hashlib.sha256(repr([str(files[0].parent), stamps]).encode()).hexdigest()[:32]
    remembered = library.run_directory() / f"weights-{known}"
    try:
        return remembered.read_text()
    except OSError:
        pass
    whole = hashlib.sha256()
    for path, (name, size, _) in zip(files, stamps):
        whole.update(f"{name} {size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(16 << 20):
                whole.update(piece)
    found = whole.hexdigest()
    try:
        # Written aside and renamed, so that nobody reads half of it.
        aside = remembered.with_suffix(f".{os.getpid()}")
        aside.write_text(found)
        aside.rename(remembered)
    except OSError:
        pass
    return found


def layers(kv_caches):
    """Where each layer's pages are, in the order of their names, and how many blocks there are."""
    found, counts = [], set()
    for name, tensor in kv_caches.items():
        if tensor.device.type != "cpu":
            raise ValueError(f"the KV cache of {name} is on {tensor.device}: only CPU is supported so far")
        page = tensor[0]
        if not page.is_contiguous():
            raise ValueError(f"a page of {name} is not contiguous: its layout is not supported")
        size = page.numel() * page.element_size()
        found.append(
            library.Layer(
                base=tensor.data_ptr(),
                stride=tensor.stride(0) * tensor.element_size(),
                bytes=size,
            )
        )
        counts.add(tensor.shape[0])
    if len(counts) != 1:
        raise ValueError(f"layers have different numbers of blocks: {sorted(counts)}")
    return found, counts.pop()
