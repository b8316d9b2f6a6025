"""The lab's model: a tiny Llama, and its weights as plain state dicts on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from langmerge.merging.tensors import layer_of

# A bar for reading five megabytes is noise, and widgets in every notebook.
logging.disable_progress_bar()

StateDict = dict[str, torch.Tensor]


def config(vocab_size: int, hidden: int, layers: int, heads: int, intermediate: int) -> LlamaConfig:
    """The architecture of Llama 2 at lab size, with tied embeddings."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        # Padding would share the id of the end of text, whose embedding then got no gradient.
        pad_token_id=None,
    )


def new(architecture: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A model with freshly initialised fp32 weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(architecture).float()


def state(model: LlamaForCausalLM) -> StateDict:
    """A copy of the weights, on the CPU; the tied output matrix is listed once, as embedding."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }


def with_state(architecture: LlamaConfig, weights: StateDict) -> LlamaForCausalLM:
    """A model in evaluation mode that carries these weights."""
    with torch.device("meta"):
        model = LlamaForCausalLM(architecture)
    model = model.to_empty(device="cpu").float()
    # Buffers (the rotary frequencies) are not in a state dict and have to be made anew.
    model.model.rotary_emb.__init__(config=architecture)
    return load_state(model, weights).eval()


def train_layers_alone(model: torch.nn.Module) -> None:
    """Let training leave all that is outside the layers as it is: embeddings, final norm, head."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(layer_of(name) is not None)


def load_state(model: LlamaForCausalLM, weights: StateDict) -> LlamaForCausalLM:
    """Put weights into a model, in place; every parameter must be given."""
    result = model.load_state_dict(weights, strict=False)
    missing = set(result.missing_keys) - {"lm_head.weight"}
    if missing or result.unexpected_keys:
        raise ValueError(
            f"weights do not fit: missing {missing}, unexpected {result.unexpected_keys}"
        )
    model.tie_weights()
    return model


def save(weights: StateDict, path: Path) -> None:
    """Weights as a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def read(path: Path) -> StateDict:
    """Weights from a safetensors file."""
    return load_file(path)


def load_pretrained(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model (fp32, evaluation mode) and its tokenizer from a Hugging Face folder."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
