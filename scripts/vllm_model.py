"""Converts the bundled GGUF model into a Hugging Face folder with fp32 weights: vllm_model.py FROM TO"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = sys.argv[1:]
name = "SmolLM2-135M-Instruct.Q4_1.gguf"
AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(target)
read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
# The same weights in a model that does not say it is quantized: such a one is not written.
if hasattr(read.config, "quantization_config"):
    del read.config.quantization_config
model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
model.load_state_dict(read.state_dict())
model.save_pretrained(target)
