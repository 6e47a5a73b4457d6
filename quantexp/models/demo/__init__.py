"""The embedded demo model: its checkpoint, training script and planted outliers."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder in the Hugging Face format (config, float16 safetensors, tokenizer)."""
