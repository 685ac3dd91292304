"""Greedy continuations of held-out text, of teacher and student side by side: a look at what a decoder has learned.

A few rows are taken, spread over the text. The prompt is what stands before a row's first predicted token where that comes late
(a question), else the row's first half, :data:`PROMPT` tokens at most; what follows it in the text stands beside the answers.
Nothing is drawn, and each prompt is continued alone, so that neither padding nor other rows can change an answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.evaluation.held_out.text import HeldOut
from diito.models.layered import longest_sequence
from diito.models.modes import eval_mode
from diito.models.steps import accepted
from diito.tasks.task import IGNORED

PROMPT, NEW = 32, 24
"""Tokens of a prompt of plain text, and of each continuation, at most."""


def continuations(
    models: Mapping[str, PreTrainedModel], held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[dict[str, str]]:
    """``count`` prompts at most, each with the ``text`` that follows it and what each of ``models`` says, by name."""
    rows = held_out.examples
    count = min(count, len(rows))
    said = []
    for example in (rows[index * len(rows) // count] for index in range(count)):
        batch = held_out.batch_of([example], device=torch.device("cpu"))
        start, stop = _predicted_run(batch)
        room = min(NEW, *(_room(model, start) for model in models.values()))
        if start < 1 or room < 1:
            continue
        ids = batch["input_ids"][0]
        with eval_mode(*models.values()):
            answers = {name: _continue(model, ids[:start], room) for name, model in models.items()}
        texts = {"prompt": ids[:start], "text": ids[start : min(stop, start + room)], **answers}
        said.append({name: tokenizer.decode(tokens, skip_special_tokens=True).strip() for name, tokens in texts.items()})
    return said


def _predicted_run(batch: Mapping[str, Tensor]) -> tuple[int, int]:
    """Where the prompt of a row ends, and where the first run of predicted tokens does; 0 and 0 where nothing is predicted."""
    slots = batch["slots"][0][batch["labels"][0] != IGNORED]
    if not len(slots):
        return 0, 0
    first = int(slots[0])  # from which the first predicted token is predicted
    run = int((slots == first + torch.arange(len(slots))).long().cumprod(0).sum())
    return first + 1 if first else min(PROMPT, batch["input_ids"].shape[1] // 2), first + 1 + run


def _room(model: PreTrainedModel, start: int) -> int:
    longest = longest_sequence(model.config)
    return NEW if longest is None else longest - start


@torch.no_grad()
def _continue(model: PreTrainedModel, prompt: Int[Tensor, " tokens"], room: int) -> Int[Tensor, " new"]:
    """The most likely next token, ``room`` times or until the text ends.

    Each by the model's own forward without a cache: transformers' generate fails for some hybrids of attention and state space.
    """
    settings = model.config if model.generation_config is None else model.generation_config
    ends = torch.tensor([] if settings.eos_token_id is None else settings.eos_token_id, dtype=torch.long, device=model.device)
    ids = prompt.unsqueeze(0).to(model.device)
    for _ in range(room):
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        following = model(**accepted(model, inputs)).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, following], dim=1)
        if torch.isin(following, ends).any():
            break
    return ids[0, len(prompt) :].cpu()


__all__ = ["NEW", "PROMPT", "continuations"]
