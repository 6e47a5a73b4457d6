"""Experiment orchestration for post-training quantization of large language models."""

__version__ = "0.1.0"
