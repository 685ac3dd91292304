"""A tiny random model of every family that transformers lists, with each of four heads, held against its own forward.

``python tests/sweep.py`` writes ``docs/families.md``; the names of families as arguments print only their rows.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from diito.models.layered import Layered
from diito.models.steps import accepted
from diito.models.student import build_student

TABLE = Path(__file__).parent.parent / "docs" / "families.md"
EQUAL = "bits equal"
HEADS = {
    "masked LM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "sequence classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
DEPTH, VOCABULARY = 4, 99
LARGEST = 5_000_000

SIZES = {
    r"(^|_)vocab_size(_per_layer_input)?$": VOCABULARY,
    r"^(num_hidden|num|n|decoder|encoder|num_decoder|num_encoder)_layers?$": DEPTH,
    r"(key_value|kv)_heads$": 2,
    r"(^|_)n?_?(heads?|attention_heads)$": 4,
    r"(head_dim|d_head|d_kv|dim_head|kv_channels|rotary_dim|attention_head_size|qk_rope_head_dim)$": 8,
    r"(experts_per_tok|moe_topk|moe_k|index_topk)$": 2,
    r"^(num|n|moe_num)_?(routed|local)?_?experts$": 4,
    r"^(n_group|topk_group|o_groups|mamba_n_groups|n_groups)$": 1,
    r"(max_\w*positions?(_embeddings)?|n_positions|n_ctx|max_seq_len|context_length)$": 64,
    r"(rank|d_state|state_size)$": 16,
    r"(sliding_window|local_attention|attention_chunk_size|window_size|sliding_window_size|keep_window_size)$": 4,
    r"(intermediate_size|ffn_dim|d_ff|hidden_dim|d_inner|dff|feed_forward_size|dim_ff|ffn_hidden_size|mid_dim)": 48,
    r"^(embedding_size|input_embedding_size|entity_emb_size|xpath_unit_hidden_size|embedding_dim)$": 16,
    r"^(\w*hidden_size|d_model|n_embd|dim|emb_dim|d_latents|output_embedding_size|\w+_embed_dim|prediction_head_size)$": 32,
    r"^(num_random_blocks|conv_kernel_size|num_channels|num_mel_bins)$": 3,
    r"(chunk_size|block_size|num_landmarks|segment_means_seq_len)$": 4,
    r"(image_size|input_size)$": 16,
    r"patch_size$": 4,
}
"""By the pattern of an attribute's name: the size it is cut to where its default is larger."""

CHANGES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8},
    "markuplm": {"max_depth": 2},
    "squeezebert": {"embedding_size": 32},
    "xmod": {"default_language": "en_XX"},
}
"""By family: what its configuration needs besides."""


def tiny_configuration(kind: type[PreTrainedConfig], family: str = "") -> dict[str, Any]:
    """The arguments of a small configuration, nested ones included."""
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in kind.sub_configs or not field.init:
            continue
        default = field.default
        if field.name.endswith(("_token_id", "_token_index", "_index", "_pad_id")) and isinstance(default, int):
            if default >= VOCABULARY:
                arguments[field.name] = {"pad": 0, "bos": 1, "eos": 2, "mas": 3}.get(field.name[:3], 4)
        elif field.name == "pad_token_id" and default is None:
            arguments[field.name] = 0
        elif "layerdrop" in field.name and isinstance(default, float):
            arguments[field.name] = 0.0
        elif isinstance(default, int) and not isinstance(default, bool):
            small = next((size for pattern, size in SIZES.items() if re.search(pattern, field.name)), None)
            if small is not None and default > small:
                arguments[field.name] = small
        elif default is None and field.name in ("head_dim", "num_key_value_heads"):
            arguments[field.name] = 8 if field.name == "head_dim" else 4
    if "kv_lora_rank" in kind.__dataclass_fields__:  # latent attention has no groups of heads
        arguments["num_key_value_heads"] = 4
    for name, nested in kind.sub_configs.items():
        if dataclasses.is_dataclass(nested) and nested is not PreTrainedConfig:
            arguments[name] = tiny_configuration(nested)
    return arguments | CHANGES.get(family, {})


def tiny_model(family: str, head: str, *, attention: str | None = None, checked: bool = False) -> PreTrainedModel:
    """A model in eval mode, every weight of it random. ``checked``: refuse one that is large."""
    name = HEADS[head][family]
    names = name if isinstance(name, tuple) else (name,)
    kind = CONFIG_MAPPING[family]
    config = kind(**tiny_configuration(kind, family))
    model_class = getattr(transformers, names[0])
    if not isinstance(config, model_class.config_class):
        config = config.get_text_config()  # of a family with several inputs the one that reads text
    build = model_class._from_config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if checked:
            with torch.device("meta"):
                count = sum(parameter.numel() for parameter in build(copy.deepcopy(config)).parameters())
            if count > LARGEST:
                raise ValueError(f"the small configuration still has {count:,} parameters")
        model = build(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def texts(model: PreTrainedModel, head: str) -> Iterator[dict[str, torch.Tensor]]:
    """Three rows of 13 words, without padding, padded right, and padded left for decoders."""
    words = min(VOCABULARY, model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(6, words, (3, 13), generator=torch.Generator().manual_seed(1))
    yield {"input_ids": ids}
    for left in (False, True) if head == "causal LM" else (False,):
        mask = (torch.arange(13) < torch.tensor([[13], [9], [4]])).long()
        mask = mask.flip(1) if left else mask
        yield {"input_ids": ids * mask, "attention_mask": mask}


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """The same bits; NaN, which attention gives on left padding, is NaN."""
    return ours.shape == theirs.shape and bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def fault(model: PreTrainedModel, head: str) -> str | None:
    """Where the run in steps is not the model's own: logits, states under forward hooks, resumed runs, gradients."""
    layered = Layered(model)
    options = accepted(model, {})  # no cache, for which some of the small configurations are too small
    modes = [(training, inputs) for training in (False, True) for inputs in texts(model, head)]
    for training, inputs in modes:
        model.train(training)
        case = f"{'train' if training else 'eval'} {'padded' if 'attention_mask' in inputs else 'full'}"
        outputs: list[torch.Tensor] = []

        def keep(module: Any, arguments: Any, output: Any, outputs: list[torch.Tensor] = outputs) -> None:
            outputs.append(output if isinstance(output, torch.Tensor) else output[0])

        hooks = [module.register_forward_hook(keep) for module in dict.fromkeys(layered.layers)]
        torch.manual_seed(5)
        logits = model(**inputs, **options).logits
        for hook in hooks:
            hook.remove()
        torch.manual_seed(5)
        run, states = layered.states(inputs, range(layered.depth))
        ours = layered.head(layered.final(states[layered.depth - 1]), inputs)
        if not equal(ours, logits):
            return f"{case}: logits"
        if len(outputs) != len(states) or not all(equal(states[layer], output) for layer, output in enumerate(outputs)):
            return f"{case}: states"
        if training or "attention_mask" in inputs:
            continue
        for start in range(layered.depth):
            hidden = states[start]
            for layer in range(start + 1, layered.depth):
                hidden = layered.advance(run, hidden, layer)
            if not equal(layered.head(layered.final(hidden), inputs), logits):
                return f"{case}: resumed at layer {start}"
    model.eval()
    inputs = next(texts(model, head))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    theirs = torch.autograd.grad(model(**inputs, **options).logits.float().square().mean(), parameters, allow_unused=True)
    run, states = layered.states(inputs, [layered.depth - 1])
    logits = layered.head(layered.final(states[layered.depth - 1]), inputs)
    ours_gradients = torch.autograd.grad(logits.float().square().mean(), parameters, allow_unused=True)
    for mine, own in zip(ours_gradients, theirs, strict=True):
        if (mine is None) != (own is None) or not (mine is None or torch.allclose(mine, own, atol=1e-6)):
            return "gradients"
    return None


def outcome(family: str, head: str) -> tuple[str, str]:
    """Of a family with a head: whether it runs layer by layer, and whether layers 0 and 2 make a student."""
    try:
        model = tiny_model(family, head, checked=True)
    except Exception as error:
        return f"not built: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160], ""
    try:
        Layered(model)
    except ValueError as error:
        return "refused: " + str(error).split("cannot be run layer by layer: ")[-1], ""
    try:
        wrong = fault(model, head)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"[:160]
    if wrong is not None:
        return f"WRONG: {wrong}", ""
    try:
        build_student(model, [layer for layer in (0, 2) if layer < Layered(model).depth])
    except ValueError as error:
        return EQUAL, "refused" if str(error).startswith("student.layers: ") else f"WRONG {error}"
    return EQUAL, "yes"


def cells(text: str) -> str:
    """Text that may stand in a table."""
    return re.sub(r"\s+", " ", text.replace("|", "/")).strip()


def rows(families: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """(family, head, outcome, student) of every family, or of those given."""
    for head, names in HEADS.items():
        for family in names:
            if not families or family in families:
                runs, student = outcome(family, head)
                yield family, head, cells(runs), student


def main() -> None:
    """Write the table, or print the rows of the families given."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(1)
    lines = []
    for row in rows(sys.argv[1:]):
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    if len(sys.argv) == 1:
        counts = []
        for head in HEADS:
            numbers = [str(sum(f"| {head} | {word}" in line for line in lines)) for word in (EQUAL, "refused", "not built")]
            counts.append(f"| {head} | {' | '.join(numbers)} |")
        TABLE.write_text(HEADING + "\n".join(counts) + FAMILIES + "\n".join(lines) + "\n", encoding="utf-8")


HEADING = """# Families that run layer by layer

Tiny random models of every family that transformers lists, held against their own forward: layer outputs and logits, unpadded
and padded, in eval and in train mode with the same random state; logits resumed at every layer and gradients, unpadded in eval
mode. A family that does not fit is refused when it is loaded. A student is made of layers 0 and 2 of 4. `python tests/sweep.py`
writes this page.

| head | bits equal | refused | not built |
|---|---|---|---|
"""
FAMILIES = """

"Not built" are those that a generic small configuration does not fit, or that need a package which is not installed.

| family | head | runs | student |
|---|---|---|---|
"""

if __name__ == "__main__":
    main()
