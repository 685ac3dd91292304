"""Causal language modelling: predict the next token, where every position reads those before it and itself.

1. every real token with a real one behind it is a slot, and the token behind it its label;
2. a swap can change the slots at and behind its first position, in its own document where documents are kept apart; what can
   change no slot (the last token) is not swapped;
3. with ``corpus.document_boundaries`` positions restart at each document, which keeps the models from looking back beyond it;
4. of conversations, and of prompts with completions, only the tokens of the answers are predicted; a swap may be anywhere
   before the last of them, and conversations that share a block are kept apart.

Nothing is drawn, so a held-out example is the same as one to train on. Shapes follow from the shape of the batch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from diito.corpus.conversations import are_conversations, conversations_of, is_of_conversations
from diito.corpus.framing import Framing, document_framing
from diito.corpus.packing import DOCUMENTS, MASKS
from diito.method.reach import reach_of_a_decoder
from diito.models.causal import logits_stay, reads_ahead
from diito.models.learn import probe
from diito.models.padding import real_positions
from diito.refusal import Refusal
from diito.tasks.task import IGNORED, UNUSED, Batching, HeldOutBatching, Question, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import CorpusSection, Recipe, SourceSection


@dataclass
class NextTokens(Batching, HeldOutBatching):
    """Rows to batches in which each token is predicted from those before it."""

    pad_token_id: int | None
    """What rows of different lengths are padded with; their attention mask hides it, so it may be any token."""
    documents: Framing | None = None
    """The tokens around each document of a row, where documents are kept apart."""
    tokenizer: Any = None
    """What turns predicted tokens into text again, where their bytes are counted."""
    columns: tuple[str, ...] = (MASKS,)
    """What is read of a dataset of one's own beside its tokens."""

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """See :class:`diito.tasks.task.Batching`. K is T - 1, at least 1.

        ``rows`` may have ``context`` Long[B]: how many first tokens of each row are not predicted; ``assistant_masks``
        Long[B, T]: 1 where a token is predicted (without it all are); and ``documents`` Long[B, T], as below.

        ``swappable``: the positions from which a slot can be changed. Where documents are kept apart also ``position_ids``
        Long[B, T], the place of each token in its document, and ``documents`` Long[B, T], the number of that document in the
        row, below 0 where padding stands in for one.
        """
        ids = rows["input_ids"]
        real = real_positions(rows)
        following = torch.zeros_like(real)
        following[:, :-1] = real[:, :-1] & real[:, 1:]
        apart = self._apart(rows)
        if apart:
            following[:, :-1] &= apart["documents"][:, :-1] == apart["documents"][:, 1:]
        if "context" in rows:
            following[:, :-1] &= torch.arange(1, ids.shape[1], device=ids.device) >= rows["context"].unsqueeze(1)
        if MASKS in rows:
            following[:, :-1] &= rows[MASKS][:, 1:] > 0
        used = following[:, : max(1, ids.shape[1] - 1)]
        slots = torch.arange(used.shape[1], device=ids.device).expand_as(used).where(used, UNUSED)
        labels = ids.roll(-1, 1)[:, : used.shape[1]].where(used, IGNORED)
        swappable = _before_a_slot(following, apart.get("documents")) & real if MASKS in rows else following
        others = {name: value for name, value in rows.items() if name not in ("context", MASKS)}
        return {**others, **apart, "slots": slots, "labels": labels, "swappable": swappable}

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """The same: nothing is drawn."""
        return self.batch(rows, generator=torch.default_generator)

    def count_bytes(self, labels: Int[Tensor, "batch slots"]) -> list[int]:
        """Bytes of the text that each row's labels spell, special tokens left out."""
        texts = (
            self.tokenizer.decode(row[row != IGNORED], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for row in labels.cpu()
        )
        return [len(text.encode()) for text in texts]

    def _apart(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The place of each token in its document and the number of that; nothing where documents are not kept apart."""
        ids = rows["input_ids"]
        begins = torch.zeros_like(ids, dtype=torch.bool)
        if DOCUMENTS in rows:
            documents = rows[DOCUMENTS]
            begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        elif self.documents is not None:
            if self.documents.before:
                begins |= ids == self.documents.before[0]
            if self.documents.after:
                begins[:, 1:] |= ids[:, :-1] == self.documents.after[-1]
            documents = begins.cumsum(1)
        else:
            return {}
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        first = places.where(begins, 0).cummax(1).values
        return {"position_ids": places - first, "documents": documents}


def _before_a_slot(
    slots: Bool[Tensor, "batch tokens"], documents: Int[Tensor, "batch tokens"] | None
) -> Bool[Tensor, "batch tokens"]:
    """The positions at or before a slot, of the same document where these are kept apart: the reach of a decoder backwards."""
    everywhere = torch.arange(slots.shape[1], device=slots.device).expand_as(slots)
    return reach_of_a_decoder(everywhere, slots.flip(1), None if documents is None else documents.flip(1)).flip(1)


class CausalLM(Task):
    """Predict the next token; every position reads those before it and itself."""

    name = "causal-lm"
    settings = "corpus"
    pipeline_tag = "text-generation"
    noun = "causal language model"
    metric = "perplexity-of-text"
    predicted = "next tokens"
    keeps_documents_apart = True
    reads_conversations = True
    generates = True
    is_drawn = False
    unusable_rules: ClassVar[Mapping[str, str]] = {
        "masked": "swaps masked tokens, and here none is masked",
        "prefix-end": "swaps before the first predicted token, and here all tokens but the first are predicted",
    }

    def check_rule(self, name: str, *, field: str, corpus: Any = None) -> None:
        """A prefix has an end where conversations, or prompts with completions, are not predicted from their first token on."""
        has_prefixes = corpus is not None and corpus.assistant_only_loss and any(map(is_of_conversations, corpus.sources))
        if not (name == "prefix-end" and has_prefixes):
            super().check_rule(name, field=field, corpus=corpus)

    def check_sources(self, sources: Sequence[SourceSection | str], *, field: str) -> None:
        if are_conversations(sources, field=field):
            for source in conversations_of(sources, field=field):
                source.check()
        else:
            super().check_sources(sources, field=field)

    @property
    def head(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def batching(
        self,
        settings: CorpusSection | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> NextTokens:
        # Of conversations every row says itself which tokens are together.
        apart = settings is not None and settings.document_boundaries and not any(map(is_of_conversations, settings.sources))
        documents = document_framing(self.framing(tokenizer), tokenizer, field="corpus") if apart else None
        return NextTokens(self.padding_id(tokenizer), documents)

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> NextTokens:
        return NextTokens(self.padding_id(tokenizer), tokenizer=tokenizer)

    def reach(
        self,
        slots: Int[Tensor, "batch slots"],
        positions: Bool[Tensor, "batch tokens"],
        documents: Int[Tensor, "batch tokens"] | None = None,
    ) -> Bool[Tensor, "batch slots"]:
        """The slots at or behind a swapped position; with ``documents``, the number of each token's, in the same document."""
        return reach_of_a_decoder(slots, positions, documents)

    def question(self, text: str, pair: str | None, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Question:
        """Every token answers with the next one, the last with what the text goes on with, so nothing stands behind it."""
        ids = [*self.framing(tokenizer).before, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        return Question({"input_ids": torch.tensor([ids])}, range(len(ids)))

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The tokenizer's padding token, or another that ends or begins a text: it is hidden and never predicted."""
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
        return next((token for token in known if token is not None), None)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.corpus.document_boundaries and recipe.corpus.layout == "lines":
            raise Refusal(
                "corpus.document_boundaries", "lines hold one document each; leave it out, or give corpus.layout blocks"
            )
        if recipe.intervention.positions == "prefix-end":
            if recipe.corpus.layout == "blocks":
                raise Refusal(
                    "corpus.layout",
                    "prefix-end swaps one token of a row, and in blocks a row holds several conversations; give lines",
                )
            if not all(map(is_of_conversations, recipe.evaluation.sources or [])):
                raise Refusal("evaluation.sources", "prefix-end is measured on conversations; give some, or leave it out")

    def check_model(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Refuse a model that reads ahead, and one that cannot keep documents apart where the recipe asks for it."""
        if reads_ahead(model):
            raise Refusal(
                "teacher.model",
                f"{recipe.teacher.model!r} reads tokens behind the one that it predicts from; give a decoder, or set "
                "is_decoder in its configuration",
            )
        packs = recipe.corpus.layout == "blocks" and any(map(is_of_conversations, recipe.corpus.sources))
        if recipe.corpus.document_boundaries or packs:
            inputs = probe(model)
            length = inputs["input_ids"].shape[1]
            cut = length // 2
            places = torch.arange(length, device=model.device)
            inputs["position_ids"] = (places - cut * (places >= cut)).expand_as(inputs["input_ids"])
            if not logits_stay(model, inputs, changed=0, tokens=slice(cut, None)):
                kind = model.config.model_type
                beyond = f"a {kind} looks back beyond a document although positions restart there"
                if packs:
                    raise Refusal("corpus.layout", f"blocks hold several conversations, and {beyond}; give lines")
                raise Refusal("corpus.document_boundaries", f"{beyond}; leave it out")


__all__ = ["CausalLM", "NextTokens"]
