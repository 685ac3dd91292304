"""Masked language modelling: token rows to a masked batch, on their own device and without waiting for it.

1. every maskable token gets the weight count ** -smoothing, every special or padding token none;
2. an exponential race draws round(rate * maskable) of a row's tokens, at least one, in proportion to the weights;
3. of these, 80 % become [MASK], 10 % a random ordinary token, 10 % stay; all are predicted.

Every shape follows from the shape of the batch and every draw comes from the generator that is passed in, so nothing
travels to the host and nothing depends on global state. What it needs to resume: a generator seeded as before.

Source: BERT (Devlin et al. 2019) for 80/10/10, XLM and DistilBERT for the smoothing, section 4 of the DIITO paper for
15 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diito.corpus.framing import Framing, structural_ids
from diito.method.reach import reach_of_an_encoder
from diito.refusal import Refusal
from diito.tasks.task import IGNORED, UNUSED, Question, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diito.recipe import MaskingSection

_SMALLEST_WEIGHT = 1e-30  # relative to the largest: the race divides by it and must stay within float32


class Masking:
    """Chooses and hides the tokens that a student has to predict.

    Args:
        token_counts: Int[V'], V' <= V: how often each token id stands in the corpus, as ``Corpus.token_counts``. An id
            beyond it, or one with a count of 0, counts as seen once. None draws uniformly.
        rate: share of a row's maskable tokens that is predicted, above 0 and at most 1.
        smoothing: tokens are drawn in proportion to count ** -smoothing; 0 draws uniformly.
        mask_token_id: id of [MASK].
        vocab_size: V; random tokens are drawn from the ids below it.
        special_ids: never predicted and never drawn as the random token: [CLS], [SEP], [PAD], [MASK] and their like,
            but not [UNK], which stands for a word. ``mask_token_id`` and ``pad_token_id`` are always among them.
        pad_token_id: id of [PAD]; None where there is none.
        framing: tokens that stand around every sequence and are never predicted, such as [CLS] and [SEP].

    Raises ValueError that names ``masking.rate`` or ``masking.smoothing``.
    """

    def __init__(
        self,
        *,
        token_counts: Int[Tensor, " tokens"] | None,
        rate: float,
        smoothing: float,
        mask_token_id: int,
        vocab_size: int,
        special_ids: Sequence[int],
        pad_token_id: int | None,
        framing: int = 2,
    ) -> None:
        if not 0 < rate <= 1:
            raise Refusal("masking.rate", f"{rate} is no share of the tokens; give a number above 0 and at most 1")
        if not 0 <= smoothing < float("inf"):
            raise Refusal("masking.smoothing", f"{smoothing} is no exponent; give 0 (uniform) or more, such as 0.7")
        if token_counts is not None and len(token_counts) > vocab_size:
            raise Refusal("token_counts", f"{len(token_counts)} counts for a vocabulary of {vocab_size} tokens")
        self.rate = rate
        self.smoothing = smoothing
        self.mask_token_id = mask_token_id
        self.pad_token_id = pad_token_id
        self.framing = framing
        specials = {mask_token_id, *special_ids} | ({pad_token_id} if pad_token_id is not None else set())
        ordinary = torch.ones(vocab_size, dtype=torch.bool)
        ordinary[[token for token in specials if token < vocab_size]] = False
        self._ordinary_ids = ordinary.nonzero().squeeze(1)
        self._weights = _token_weights(token_counts, smoothing, ordinary)
        self._wanted = torch.empty(0, dtype=torch.long)
        # Copies by device, made at the first batch there: a copy at every step would make the host wait.
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def for_tokenizer(
        cls,
        section: MaskingSection,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None,
        framing: Framing | None = None,
    ) -> Masking:
        """Take the special tokens from a tokenizer, all but its unknown token.

        ``vocab_size`` is the model's; ids that the tokenizer does not know are never drawn as the random token.
        ``framing``: what stands around a sequence; None: two tokens.
        Raises ValueError for a tokenizer without a mask token.
        """
        if tokenizer.mask_token_id is None:
            raise Refusal(
                "teacher.tokenizer", f"{type(tokenizer).__name__} has no mask token; take one of a masked language model"
            )
        unknown_to_tokenizer = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
        return cls(
            token_counts=token_counts,
            rate=section.rate,
            smoothing=section.smoothing,
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=vocab_size,
            special_ids=sorted(structural_ids(tokenizer) | unknown_to_tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            framing=2 if framing is None else len(framing),
        )

    def batch(self, rows: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mask rows for the objective.

        ``rows`` and ``generator`` as of calling it, with the same draws. Returns ``input_ids`` Long[B, T] masked; ``slots``
        Long[B, K], the masked positions, ascending, -1 in unused slots; ``labels`` Long[B, K], the token that stood at each
        slot, -100 in unused ones; and the other entries of ``rows``.
        """
        return _at_slots(self(rows, generator=generator))

    def examples(self, rows: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """:meth:`mask_examples`, in the form of :meth:`batch`."""
        return _at_slots(self.mask_examples(rows, seed=seed, examples=examples))

    def __call__(self, batch: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mask a batch.

        Args:
            batch: ``input_ids`` Long[B, T]; ``attention_mask`` Long[B, T] where there is padding. Other entries pass
                through.
            generator: the only source of randomness, on the device of the batch.

        Returns a new dict: ``input_ids`` masked; ``labels`` Long[B, T], the token to predict or -100;
        ``masked_positions`` Long[B, K], ascending, -1 in unused slots. K is round(rate * (T - framing)), at least 1, in
        every batch of that length; a row with n maskable tokens uses round(rate * n) slots (Python's ``round``, halves to
        even), at least 1, or none if n is 0.
        """
        input_ids = batch["input_ids"]
        length = input_ids.shape[1]
        token_weights, ordinary_ids, wanted = self._tables_on(input_ids.device, length)
        weights = token_weights[input_ids]
        if "attention_mask" in batch:
            weights = weights * batch["attention_mask"]
        slots = min(length, self._slots(length))
        positions = _race(weights, slots, generator)
        used = torch.arange(slots, device=input_ids.device) < wanted[(weights > 0).sum(1, keepdim=True)]
        # A column of its own, cut off below, takes what is written to unused slots.
        places = torch.where(used, positions, length).sort(dim=1).values
        padded = torch.nn.functional.pad(input_ids, (0, 1))
        chosen = torch.zeros_like(padded, dtype=torch.bool).scatter_(1, places, True)
        hidden = self._hide(padded.gather(1, places), ordinary_ids, generator)
        return {
            **batch,
            "input_ids": padded.scatter(1, places, hidden)[:, :length].contiguous(),
            "labels": torch.where(chosen[:, :length], input_ids, IGNORED),
            "masked_positions": torch.where(places < length, places, UNUSED),
        }

    def mask_examples(self, batch: Mapping[str, Tensor], *, seed: int, examples: Sequence[int]) -> dict[str, Tensor]:
        """Mask a batch for evaluation: each row's draws are a function of (seed, example number) and nothing else.

        They depend neither on the batch size, nor on the padding, nor on the device (they are made on the CPU, which
        waits). Same entries in and out as calling it; ``examples`` numbers the rows within the evaluated text.
        """
        host = {name: value.cpu() for name, value in batch.items()}
        input_ids, attention_mask = host["input_ids"], host.get("attention_mask")
        if len(examples) != len(input_ids):
            raise ValueError(f"{len(examples)} example numbers were given for {len(input_ids)} rows")
        length = input_ids.shape[1]
        labels = torch.full_like(input_ids, IGNORED)
        masked_positions = torch.full((len(input_ids), min(length, self._slots(length))), UNUSED)
        input_ids = input_ids.clone()
        for row, example in enumerate(examples):
            # Wherever the padding stands, on the left too, the row's own tokens are drawn from alone.
            real = torch.arange(length) if attention_mask is None else attention_mask[row].nonzero().flatten()
            masked = self({"input_ids": input_ids[row : row + 1, real]}, generator=_generator(seed, example))
            input_ids[row, real] = masked["input_ids"][0]
            labels[row, real] = masked["labels"][0]
            positions = masked["masked_positions"][0]
            masked_positions[row, : len(positions)] = torch.where(positions < 0, UNUSED, real[positions.clamp(min=0)])
        device = batch["input_ids"].device
        made = {"input_ids": input_ids, "labels": labels, "masked_positions": masked_positions}
        return {**batch, **{name: value.to(device) for name, value in made.items()}}

    def _slots(self, length: int) -> int:
        """How many tokens are predicted in a row of ``length`` tokens, framing included."""
        return max(1, round(self.rate * (length - self.framing)))

    def _tables_on(self, device: torch.device, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Token weights Float[V], ids a random token is drawn from Long[R], and how many tokens to predict of 0, 1, … maskable.

        The last is a table of Python's own results: multiplying and rounding on the device would differ in single
        precision.
        """
        if device not in self._tables or len(self._tables[device][2]) <= length:
            if len(self._wanted) <= length:
                counts = range(max(length, 512) + 1)
                self._wanted = torch.tensor([max(1, round(self.rate * count)) if count else 0 for count in counts])
            tables = (self._weights, self._ordinary_ids, self._wanted)
            self._tables[device] = (tables[0].to(device), tables[1].to(device), tables[2].to(device))
        return self._tables[device]

    def _hide(
        self, tokens: Int[Tensor, "batch slots"], ordinary_ids: Int[Tensor, " ordinary"], generator: torch.Generator
    ) -> Int[Tensor, "batch slots"]:
        draws = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        drawn = torch.randint(len(ordinary_ids), tokens.shape, generator=generator, device=tokens.device)
        return torch.where(draws < 0.8, self.mask_token_id, torch.where(draws < 0.9, ordinary_ids[drawn], tokens))


def _at_slots(masked: dict[str, Tensor]) -> dict[str, Tensor]:
    """A masked batch with its labels at the slots."""
    slots = masked["masked_positions"]
    labels = masked["labels"].gather(1, slots.clamp(min=0))
    others = {name: value for name, value in masked.items() if name != "masked_positions"}
    return {**others, "slots": slots, "labels": torch.where(slots == UNUSED, IGNORED, labels)}


def _race(weights: Float[Tensor, "batch tokens"], winners: int, generator: torch.Generator) -> Int[Tensor, "batch winners"]:
    """Draw tokens of each row without replacement in proportion to their weights, first drawn first.

    Token i arrives after an exponential time of rate weights[i]; the earliest arrivals are such a draw. A weight of 0
    never arrives: such tokens come after all others.
    """
    arrivals = torch.empty_like(weights).exponential_(generator=generator).div_(weights)
    return arrivals.topk(winners, dim=1, largest=False).indices


def _token_weights(
    token_counts: Int[Tensor, " tokens"] | None, smoothing: float, ordinary: Bool[Tensor, " vocabulary"]
) -> Float[Tensor, " vocabulary"]:
    counts = torch.ones(len(ordinary), dtype=torch.float64)
    if token_counts is not None:
        counts[: len(token_counts)] = token_counts.cpu().double().clamp(min=1)
    weights = counts.pow(-smoothing)
    return (weights / weights.max()).clamp(min=_SMALLEST_WEIGHT).where(ordinary, 0.0).float()


def _generator(seed: int, example: int) -> torch.Generator:
    """Seeded by a hash, so that neighbouring seeds and examples share nothing."""
    digest = hashlib.sha256(f"mask {seed} {example}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


class MaskedLM(Task):
    """Predict the tokens that were hidden; every position may read every other."""

    name = "masked-lm"
    settings = "masking"
    needed_tokens = ("mask_token",)
    pipeline_tag = "fill-mask"
    noun = "masked language model"
    metric = "perplexity"
    predicted = "masked tokens"

    @property
    def head(self) -> Any:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def batching(
        self,
        settings: MaskingSection | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        token_counts: Int[Tensor, " tokens"] | None = None,
    ) -> Masking:
        return Masking.for_tokenizer(
            self._settings(settings),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            token_counts=token_counts,
            framing=self.framing(tokenizer),
        )

    @staticmethod
    def _settings(settings: MaskingSection | None) -> MaskingSection:
        from diito.recipe import MaskingSection

        return MaskingSection() if settings is None else settings

    def held_out_batching(self, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Masking:
        """The paper's masks for measuring, whatever training masks: 15 % of the tokens, each as likely as another."""
        from diito.recipe import MaskingSection

        section = MaskingSection(rate=0.15, smoothing=0.0)
        return self.batching(section, tokenizer=tokenizer, vocab_size=vocab_size)

    def question(self, text: str, pair: str | None, *, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Question:
        """The masks that stand in the text answer; where there is none, every token does."""
        asked = super().question(text, pair, tokenizer=tokenizer, vocab_size=vocab_size)
        masks = (asked.inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
        return Question(asked.inputs, masks or asked.slots)

    def slot_share(self, settings: Any = None) -> float:
        return float(self._settings(settings).rate)

    def reach(self, slots: Int[Tensor, "batch slots"], positions: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch slots"]:
        return reach_of_an_encoder(slots, positions)


__all__ = ["IGNORED", "UNUSED", "MaskedLM", "Masking"]
