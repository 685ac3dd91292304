"""Conversations for tiny decoders: chat templates with and without marks, tokenizers, files, recipes. Nothing is downloaded."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import decoders
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diito.recipe import Recipe
from diito.recipe.file import read

PIECES = ["<s>", "</s>", "<unk>", "user:", "assistant:", "system:"]
"""Ids 0 to 5; the word wN has the id N + 6, and the words end at the models' vocabulary."""
WORDS = decoders.WORDS - len(PIECES)

PLAIN = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %} </s>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""``user: w1 w2 / assistant: w3 </s> /``, with a line for each message."""
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}assistant: "
    "{% generation %}{{ message['content'] + ' </s>' }}{% endgeneration %}"
    "{% else %}{{ message['role'] + ': ' + message['content'] }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""The same text, with marks."""
FORGETFUL = (
    "{% for message in messages %}{% if message['role'] == 'assistant' and loop.last %}assistant: w9 {{ message['content'] }}"
    "{% else %}{{ message['role'] + ': ' + message['content'] }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""One that writes an answer otherwise once it is no longer the last, as templates that leave out old reasoning do."""


def tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    """Words between spaces and lines, with a chat template; ``</s>`` ends a text."""
    pieces = {piece: index for index, piece in enumerate([*PIECES, *(f"w{number}" for number in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = template
    return made


@functools.cache
def teacher(family: str = "llama", *, layers: int = 4, template: str | None = PLAIN) -> str:
    """The folder of a teacher that chats."""
    folder = tiny.FOLDER / f"chat-{family}-{layers}-{abs(hash(template))}"
    decoders.build(family, layers, seed=layers).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return str(folder)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """A ``.jsonl`` file of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def say(*turns: str) -> list[dict[str, str]]:
    """Messages: the user's and the assistant's in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(turns)]


@functools.cache
def conversations(count: int = 60) -> str:
    """A file of conversations of one or two questions with answers, 6 to 20 tokens each."""
    draws = random.Random(count)

    def words() -> str:
        return " ".join(f"w{draws.randrange(WORDS)}" for _ in range(draws.randint(1, 4)))

    rows = [{"messages": say(*(words() for _ in range(2 * draws.randint(1, 2))))} for _ in range(count)]
    return write(tiny.FOLDER / f"conversations-{count}.jsonl", rows)


def recipe(output: Path, overrides: dict[str, Any] | None = None, *, family: str = "llama") -> Recipe:
    """The tiny recipe on conversations."""
    given = {
        "output": str(output),
        "task": "causal-lm",
        "teacher.model": teacher(family),
        "corpus.sources": f"[{{path: {conversations()}, column: messages}}]",
        "corpus.length": "24",
        "evaluation.sources": f"[{{path: {conversations(20)}, column: messages}}]",
        "evaluation.length": "24",
        "evaluation.continuations": "0",
        **(overrides or {}),
    }
    return read(tiny.recipe_file(), given)
