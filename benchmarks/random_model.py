"""Random checkpoints of any size, written block by block: none of them is ever in memory whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from quantexp.models.source import DEMO

VOCABULARY = 2048  # the demo model's, whose tokenizer they have


def write(
    folder: Path,
    *,
    hidden: int,
    intermediate: int,
    blocks: int,
    heads: int = 8,
    kv_heads: int | None = None,
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Path:
    """A Llama with random weights, one safetensors file per block, and the demo's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "architectures": ["LlamaForCausalLM"],
        "dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = AutoConfig.for_model("llama", **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    for path in DEMO.glob("tokenizer*"):
        shutil.copy(path, folder)
    files: dict[str, str] = {}
    groups: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, meta in model.state_dict().items():
        parts = name.split(".")
        key = parts[2] if parts[1] == "layers" else "rest"
        groups.setdefault(key, []).append((name, meta.shape))
    for key, names in groups.items():
        file = f"model-{key}.safetensors"
        tensors = {}
        for name, shape in names:
            made = torch.empty(shape).normal_(0, 0.02, generator=draw)
            tensors[name] = (made if len(shape) > 1 else 1 + made).to(dtype)
            files[name] = file
        save_file(tensors, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
