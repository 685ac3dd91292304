"""A small model of its own kind, with faults that keep a model from being run layer by layer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput


class ToyConfig(PreTrainedConfig):
    """``fault``: what the model does wrong; "none" for a model without fault."""

    model_type = "toy"

    def __init__(self, fault="none", **keywords):
        self.fault = fault
        self.vocab_size, self.hidden_size, self.num_hidden_layers = 99, 8, 3
        super().__init__(**keywords)


class ToyLayer(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault, self.linear, self.calls = fault, nn.Linear(8, 8), 0

    def forward(self, hidden_states, memory=None):
        if self.fault == "raises":
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("this layer runs once\nand says so at length")
        hidden = hidden_states + torch.tanh(self.linear(hidden_states))
        if self.fault == "carried":
            hidden = hidden + memory.mean()
            memory.add_(1)
        return hidden.flatten(0, 1) if self.fault == "flat" else hidden


class ToyBody(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.fault = config, config.fault
        self.words, self.norm = nn.Embedding(99, 8), nn.LayerNorm(8)
        layers = [ToyLayer(config.fault) for _ in range(3)]
        self.layers = nn.Sequential(*layers) if config.fault == "no list" else nn.ModuleList(layers)

    def forward(self, input_ids, attention_mask=None):
        hidden = self.words(input_ids)
        memory = DynamicCache() if self.fault == "cache" else torch.zeros(())
        for place, layer in enumerate(self.layers):
            if self.fault == "layerdrop" and self.training and place == 1:
                continue
            hidden = layer(hidden, memory)
            if self.fault == "flat":
                hidden = hidden.view(*input_ids.shape, 8)
            if self.fault == "between":
                hidden = hidden * 1.5
        if self.fault == "skipped" and self.training:
            hidden = nn.functional.dropout(hidden, 0.5)
        hidden = self.norm(hidden)
        return BaseModelOutput(hidden * 2 if self.fault == "after" else hidden)


class Toy(PreTrainedModel):
    """Embeddings, three layers, a norm and a head."""

    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.body, self.output = ToyBody(config), nn.Linear(8, 99)
        self.post_init()

    def get_input_embeddings(self):
        return self.body.words

    def forward(self, input_ids, attention_mask=None):
        hidden = self.body(input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.fault == "mixing head":
            hidden = hidden - hidden.mean(1, keepdim=True)
        return MaskedLMOutput(logits=self.output(hidden))
