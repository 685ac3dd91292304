"""TransformerLens: a bridge over the model; the source's run is cached at one hook and stops there, the base's is hooked.

The bridge itself turns the model's attention to the eager one.
"""

from __future__ import annotations

import tempfile
from typing import Any

import peer_models
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast


class Side:
    """One bridge for all layers."""

    def __init__(self, case: dict[str, Any], model: Any) -> None:
        words = Tokenizer(WordLevel({"<pad>": 0, "word": 1}, unk_token="<pad>"))
        with tempfile.TemporaryDirectory() as folder:  # from which the bridge reads the tokenizer once more
            PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>").save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            self.bridge = TransformerBridge.boot_transformers("gpt2", hf_model=model, tokenizer=tokenizer, device="cpu")
        positions = peer_models.swapped_positions(case)
        self.span = slice(positions[0], positions[-1] + 1)
        self.layers = case["teacher_layers"]

    @torch.no_grad()
    def logits(self, base: Tensor, source: Tensor, layer: int) -> Tensor:
        """Float[B, T, V] of the counterfactual run."""
        name = f"blocks.{layer}.hook_out"
        stop = layer + 1 if layer + 1 < self.layers else None
        _, cache = self.bridge.run_with_cache(source, names_filter=name, stop_at_layer=stop, return_type=None)

        def swap(state: Tensor, hook: Any) -> Tensor:
            state = state.clone()
            state[:, self.span] = cache[name][:, self.span]
            return state

        return self.bridge.run_with_hooks(base, fwd_hooks=[(name, swap)])
