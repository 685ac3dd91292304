"""The text of a run: what is trained on, and what is held out to measure on."""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from diito.corpus import Corpus, NothingLeft, Part, find_sources
from diito.evaluation.held_out.text import HeldOut, held_out_layout
from diito.recipe import CorpusSection, Recipe
from diito.tasks.task import Task

HELD_OUT_SHARE = 0.05
"""Of the corpus's documents, at most, where they are held out for measuring."""
HELD_OUT_BLOCKS = 200
"""Blocks measured then, at most."""
_BYTES = 8  # of a token, at least as many as any usual text has: more is held out rather than less


def with_lengths(recipe: Recipe, length: int) -> Recipe:
    """``recipe`` with ``length`` where it gives none, held-out text as long as the corpus's, and with a limit to what is
    measured of its own corpus."""
    corpus, evaluation = recipe.corpus, recipe.evaluation
    length = length if corpus.length is None else corpus.length
    blocks = HELD_OUT_BLOCKS if evaluation.sources is None and evaluation.blocks is None else evaluation.blocks
    return dataclasses.replace(
        recipe,
        corpus=dataclasses.replace(corpus, length=length),
        evaluation=dataclasses.replace(
            evaluation, length=length if evaluation.length is None else evaluation.length, blocks=blocks
        ),
    )


def load_text(
    recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int
) -> tuple[Corpus, HeldOut | None]:
    """The corpus, and the held-out text: its own sources, or documents of the corpus where the recipe names none.

    None is held out where the recipe or the task measures nothing, and where there is too little text to set some aside.
    """
    batching = task.held_out_batching(tokenizer=tokenizer, vocab_size=vocab_size)

    def load_training(part: Part | None) -> Corpus:
        return task.load_rows(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed, part=part)

    def load_held_out(part: Part | None) -> HeldOut:
        section = _held_out_section(recipe)
        corpus = task.load_rows(section, tokenizer=tokenizer, seed=recipe.seed, field="evaluation", part=part)
        assert batching is not None
        return HeldOut(corpus, batching, recipe.seed, recipe.evaluation.blocks, recipe.evaluation.batch, task.reach)

    if batching is None or recipe.evaluation.sources == []:
        return load_training(None), None
    if recipe.evaluation.sources is not None:
        return load_training(None), load_held_out(None)
    share = _held_out_share(recipe)
    try:
        held_out = load_held_out(Part(share, recipe.seed, held_out=True))
        if len(held_out.examples) < 2:  # an intervention swaps between two
            return load_training(None), None
        return load_training(Part(share, recipe.seed, held_out=False)), held_out
    except NothingLeft:
        return load_training(None), None


def _held_out_share(recipe: Recipe) -> float:
    """As many documents as the blocks to be measured need, at most :data:`HELD_OUT_SHARE` of them."""
    evaluation = recipe.evaluation
    assert evaluation.blocks is not None and evaluation.length is not None
    size = sum(source.size() for source in find_sources(recipe.corpus.sources, field="corpus.sources"))
    return min(HELD_OUT_SHARE, evaluation.blocks * evaluation.length * _BYTES / max(size, 1))


def _held_out_section(recipe: Recipe) -> CorpusSection:
    evaluation = recipe.evaluation
    sources = recipe.corpus.sources if evaluation.sources is None else evaluation.sources
    return CorpusSection(
        sources=sources,
        layout=held_out_layout(sources),
        length=evaluation.length,
        assistant_only_loss=recipe.corpus.assistant_only_loss,
        workers=recipe.corpus.workers,
        cache=recipe.corpus.cache,
    )
