"""The masked batch: what is never chosen, how many and how often, 80/10/10, and that a draw is a function of its
seed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diito.recipe import MaskingSection
from diito.tasks.masked_lm import IGNORED, UNUSED, Masking

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 50
SPECIALS = [PAD, CLS, SEP, MASK]


def make(**options: Any) -> Masking:
    settings: dict[str, Any] = {
        "token_counts": None,
        "rate": 0.15,
        "smoothing": 0.7,
        "mask_token_id": MASK,
        "vocab_size": VOCABULARY,
        "special_ids": SPECIALS,
        "pad_token_id": PAD,
    }
    return Masking(**(settings | options))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Long[batch, length]: [CLS], ordinary and unknown tokens, [SEP]."""
    ids = torch.randint(MASK + 1, VOCABULARY, (batch, length), generator=seeded(seed))
    ids[:, 5::7] = UNK
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids


def padded_rows(lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    ids = blocks(len(lengths), max(lengths), seed)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, length - 1 :] = PAD
        ids[row, length - 1] = SEP
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def check(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """What holds of every masked batch."""
    ids, labels, positions = before["input_ids"], after["labels"], after["masked_positions"]
    assert labels.dtype == positions.dtype == after["input_ids"].dtype == torch.long
    assert after["input_ids"].is_contiguous() and labels.is_contiguous()
    for row in range(len(ids)):
        used = [position for position in positions[row].tolist() if position != UNUSED]
        assert used == sorted(set(used)), "ascending, each once"
        assert positions[row].tolist() == used + [UNUSED] * (positions.shape[1] - len(used))
        assert (labels[row] != IGNORED).nonzero().flatten().tolist() == used
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(after["input_ids"][~chosen], ids[~chosen])
    assert not torch.isin(ids[chosen], torch.tensor(SPECIALS)).any()


class TestCounts:
    @pytest.mark.parametrize("length", [3, 5, 12, 13, 22, 128])
    @pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 1.0])
    def test_blocks_have_the_same_count_in_every_row(self, rate: float, length: int) -> None:
        batch = {"input_ids": blocks(6, length)}
        masked = make(rate=rate)(batch, generator=seeded(1))
        check(batch, masked)
        wanted = max(1, round(rate * (length - 2)))
        assert masked["masked_positions"].shape == (6, wanted)
        assert ((masked["labels"] != IGNORED).sum(1) == wanted).all()
        assert "attention_mask" not in masked

    def test_padded_rows_have_their_own_counts(self) -> None:
        lengths = [3, 5, 9, 12, 22, 32, 42, 60]
        batch = padded_rows(lengths)
        masked = make()(batch, generator=seeded(2))
        check(batch, masked)
        expected = [max(1, round(0.15 * (length - 2))) for length in lengths]
        assert (masked["labels"] != IGNORED).sum(1).tolist() == expected
        assert masked["masked_positions"].shape == (8, round(0.15 * 58))
        assert masked["attention_mask"] is batch["attention_mask"]

    def test_halves_round_to_even_as_in_python(self) -> None:
        """0.15 * 10 = 1.5 and 0.15 * 30 = 4.5."""
        for maskable, expected in ((10, 2), (30, 4), (50, 8)):
            assert round(0.15 * maskable) == expected
            masked = make()({"input_ids": blocks(2, maskable + 2)}, generator=seeded(0))
            assert ((masked["labels"] != IGNORED).sum(1) == expected).all()

    def test_specials_inside_a_block_lower_the_count(self) -> None:
        ids = blocks(2, 42)
        ids[0, 1:21] = SEP
        masked = make()({"input_ids": ids}, generator=seeded(3))
        check({"input_ids": ids}, masked)
        assert (masked["labels"] != IGNORED).sum(1).tolist() == [3, 6]
        assert masked["masked_positions"].shape == (2, 6)

    def test_a_row_without_maskable_tokens_is_left_alone(self) -> None:
        ids = blocks(2, 30)
        ids[1, 1:-1] = PAD
        masked = make()({"input_ids": ids}, generator=seeded(4))
        assert (masked["labels"][1] == IGNORED).all()
        assert (masked["masked_positions"][1] == UNUSED).all()
        assert torch.equal(masked["input_ids"][1], ids[1])

    def test_rows_without_specials_never_exceed_the_slots(self) -> None:
        ids = torch.full((2, 12), 7)
        masked = make(rate=0.5)({"input_ids": ids}, generator=seeded(5))
        assert ((masked["labels"] != IGNORED).sum(1) == 5).all()


class TestDraws:
    """Everything is seeded, so these pass or fail for good; the odds are those of a fair draw failing at the first
    writing."""

    def test_padding_and_specials_never_and_unknown_sometimes(self) -> None:
        batch = padded_rows([6, 20, 31, 64] * 50)
        batch["input_ids"][:, 3] = MASK  # a literal [MASK] in the text
        masked = make(rate=0.9)(batch, generator=seeded(6))
        check(batch, masked)
        assert ((masked["labels"] == IGNORED) | (batch["attention_mask"] == 1)).all()
        assert (masked["labels"] == UNK).any()

    def test_the_attention_mask_hides_tokens_that_are_not_padding(self) -> None:
        ids = torch.full((50, 20), 7)
        mask = torch.ones_like(ids)
        mask[:, 10:] = 0
        masking = make(pad_token_id=None, special_ids=[])
        masked = masking({"input_ids": ids, "attention_mask": mask}, generator=seeded(7))
        assert (masked["labels"][:, 10:] == IGNORED).all()
        assert ((masked["labels"] != IGNORED).sum(1) == 2).all()

    def test_eighty_ten_ten(self) -> None:
        """About 60,000 draws; each rate within five sigma = 5 * sqrt(p * (1 - p) / n): odds of about 1 in 600,000 each.
        A random token equals the one it replaces once in 46, so 10 % * 45/46 look random and the rest looks kept."""
        ids = blocks(1_000, 402)
        masked = make()({"input_ids": ids}, generator=seeded(8))
        chosen = masked["labels"] != IGNORED
        before, after = ids[chosen], masked["input_ids"][chosen]
        draws = len(before)
        ordinary = VOCABULARY - len(SPECIALS)
        expected = {"mask": 0.8, "random": 0.1 * (1 - 1 / ordinary), "kept": 0.1 * (1 + 1 / ordinary)}
        seen = {"mask": after == MASK, "random": (after != MASK) & (after != before), "kept": after == before}
        assert draws == 60_000
        for name, rate in expected.items():
            bound = 5 * math.sqrt(rate * (1 - rate) / draws)
            assert abs(float(seen[name].double().mean()) - rate) < bound, name

    def test_random_tokens_are_uniform_over_the_ordinary_ones(self) -> None:
        """About 6,000 random tokens over 46 ids, 130 each; five sigma for all 46: odds of about 1 in 38,000."""
        ids = torch.full((1_000, 402), 7)
        masked = make()({"input_ids": ids}, generator=seeded(9))["input_ids"]
        random = masked[(masked != MASK) & (masked != 7)]
        counts = torch.bincount(random, minlength=VOCABULARY)
        assert (counts[SPECIALS] == 0).all() and counts[7] == 0
        others = [token for token in range(VOCABULARY) if token not in (*SPECIALS, 7)]
        mean = len(random) / len(others)
        assert ((counts[others] - mean).abs() < 5 * math.sqrt(mean)).all()

    @pytest.mark.parametrize("smoothing", [0.7, 0.0, 2.0])
    def test_rare_tokens_are_drawn_more_often(self, smoothing: float) -> None:
        """One of 6 tokens of counts 1, 1, 10, 100, 1000, 0 in each of 100,000 rows: the first arrival is drawn exactly
        in proportion to count ** -smoothing. Five sigma for 6 rates: odds of about 1 in 300,000 each parameter."""
        tokens = torch.tensor([10, 11, 12, 13, 14, 15])
        counts = torch.zeros(VOCABULARY, dtype=torch.long)
        counts[tokens] = torch.tensor([1, 1, 10, 100, 1_000, 0])
        rows = 100_000
        ids = torch.cat([torch.tensor([CLS]), tokens, torch.tensor([SEP])]).repeat(rows, 1)
        masked = make(token_counts=counts, smoothing=smoothing)({"input_ids": ids}, generator=seeded(10))
        assert masked["masked_positions"].shape == (rows, 1)
        seen = torch.bincount(masked["masked_positions"].flatten(), minlength=8)[1:7] / rows
        weights = counts[tokens].clamp(min=1).double() ** -smoothing
        rates = weights / weights.sum()
        assert ((seen - rates).abs() < 5 * (rates * (1 - rates) / rows).sqrt()).all(), (seen, rates)

    def test_positions_are_uniform_without_counts(self) -> None:
        """6 of 40 positions in 20,000 rows: each 3,000 times, five sigma = 5 * sqrt(20000 * 0.15 * 0.85) = 252; for all
        40 odds of about 1 in 44,000."""
        masked = make()({"input_ids": blocks(20_000, 42)}, generator=seeded(11))
        counts = (masked["labels"] != IGNORED).sum(0)
        assert counts[0] == counts[-1] == 0
        assert ((counts[1:-1] - 3_000).abs() < 252).all()

    def test_rows_are_independent(self) -> None:
        """Two equal rows choose 6 of 40 positions: 0.9 in common on average, s.d. 0.8 a pair; five sigma over 10,000
        pairs is 0.04, odds of about 1 in 1,700,000."""
        ids = blocks(1, 42).repeat(20_000, 1)
        chosen = make()({"input_ids": ids}, generator=seeded(12))["labels"] != IGNORED
        common = (chosen[::2] & chosen[1::2]).sum(1).double().mean()
        assert abs(float(common) - 0.9) < 5 * 0.81 / math.sqrt(10_000)

    def test_an_extreme_exponent_keeps_every_token_maskable(self) -> None:
        counts = torch.full((VOCABULARY,), 10**9)
        counts[7] = 1
        ids = blocks(4, 22)
        masked = make(token_counts=counts, smoothing=20.0, rate=1.0)({"input_ids": ids}, generator=seeded(13))
        assert ((masked["labels"] != IGNORED).sum(1) == 20).all()


class TestSeeds:
    def test_a_draw_is_a_function_of_the_generator(self) -> None:
        batch = padded_rows([20, 40, 64])
        masking = make()
        first = masking(batch, generator=seeded(20))
        torch.manual_seed(99)
        again = make()(batch, generator=seeded(20))
        other = masking(batch, generator=seeded(21))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["labels"], other["labels"])

    def test_input_is_not_changed_and_other_entries_pass_through(self) -> None:
        ids = blocks(3, 30)
        extra = torch.arange(3)
        before = ids.clone()
        masked = make()({"input_ids": ids, "example": extra}, generator=seeded(0))
        assert torch.equal(ids, before) and masked["example"] is extra

    def test_examples_do_not_depend_on_batch_size_or_padding(self) -> None:
        lengths = [12, 64, 30, 47, 21]
        batch = padded_rows(lengths)
        masking = make(rate=0.3)
        together = masking.mask_examples(batch, seed=3, examples=[0, 1, 2, 3, 4])
        check(batch, together)
        for row, length in enumerate(lengths):
            ids = batch["input_ids"][row : row + 1, :length]
            alone = masking.mask_examples({"input_ids": ids}, seed=3, examples=[row])
            slots = alone["masked_positions"].shape[1]
            assert torch.equal(alone["input_ids"][0], together["input_ids"][row, :length])
            assert torch.equal(alone["labels"][0], together["labels"][row, :length])
            assert torch.equal(alone["masked_positions"][0], together["masked_positions"][row, :slots])
        other = masking.mask_examples(batch, seed=4, examples=[0, 1, 2, 3, 4])
        moved = masking.mask_examples(batch, seed=3, examples=[1, 2, 3, 4, 5])
        assert not torch.equal(other["labels"], together["labels"])
        assert not torch.equal(moved["labels"], together["labels"])

    def test_no_value_is_asked_of_the_device(self) -> None:
        """No operation whose result or shape the host has to wait for, and no copy between devices."""
        masking = make(token_counts=torch.ones(VOCABULARY, dtype=torch.long))
        batch = padded_rows([10, 30])
        masking(batch, generator=seeded(0))  # the tables are on their device from the first batch on
        with Waits() as waits:
            masking(batch, generator=seeded(0))
        assert waits.seen == []
        with Waits() as waits:
            batch["input_ids"][batch["input_ids"] == PAD].sum().item()
        assert waits.seen == ["index", "_local_scalar_dense"], "the test sees what it looks for"

    @pytest.mark.gpu
    def test_no_wait_on_an_accelerator(self) -> None:
        masking = make(token_counts=torch.ones(VOCABULARY, dtype=torch.long))
        batch = {name: value.cuda() for name, value in padded_rows([10, 30, 64]).items()}
        generator = torch.Generator("cuda").manual_seed(0)
        masking(batch, generator=generator)
        torch.cuda.set_sync_debug_mode("error")
        try:
            masked = masking(batch, generator=generator)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        check({name: value.cpu() for name, value in batch.items()}, {name: value.cpu() for name, value in masked.items()})


class Waits(TorchDispatchMode):
    """Records operations whose results the host must read before it can go on."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "is_nonzero",
        "equal",
        "_to_copy",
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        boolean = any(index is not None and index.dtype == torch.bool for index in indices)
        if boolean or (name in self.NAMES and (options or {}).get("dtype") is None):
            self.seen.append(name)
        return operation(*arguments, **(options or {}))


class TestErrors:
    @pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
    def test_rate(self, rate: float) -> None:
        with pytest.raises(ValueError, match=r"^masking.rate: "):
            make(rate=rate)

    @pytest.mark.parametrize("smoothing", [-0.7, float("inf"), float("nan")])
    def test_smoothing(self, smoothing: float) -> None:
        with pytest.raises(ValueError, match=r"^masking.smoothing: "):
            make(smoothing=smoothing)

    def test_more_counts_than_tokens(self) -> None:
        with pytest.raises(ValueError, match=r"60 counts for a vocabulary of 50"):
            make(token_counts=torch.ones(60, dtype=torch.long))


class TestForTokenizer:
    TOKENIZER = SimpleNamespace(
        mask_token_id=MASK,
        pad_token_id=PAD,
        cls_token_id=CLS,
        sep_token_id=SEP,
        unk_token_id=UNK,
        all_special_ids=[PAD, UNK, CLS, SEP, MASK, 9],
        get_vocab=lambda: {str(number): number for number in range(40)},
    )

    def test_specials_but_not_unknown_and_no_id_the_tokenizer_lacks(self) -> None:
        masking = Masking.for_tokenizer(
            MaskingSection(rate=0.5),
            tokenizer=self.TOKENIZER,  # type: ignore[arg-type]
            vocab_size=VOCABULARY,
            token_counts=torch.ones(40, dtype=torch.long),
        )
        ids = blocks(500, 62)
        ids[:, 1:-1] = torch.arange(60) % 40
        masked = masking({"input_ids": ids}, generator=seeded(0))
        chosen = set(masked["labels"].unique().tolist())
        assert chosen == {IGNORED, UNK, *range(5, 40)} - {9}
        random = masked["input_ids"][masked["input_ids"] != ids].unique().tolist()
        assert set(random) == {UNK, *range(4, 40)} - {9}

    def test_a_tokenizer_without_a_mask_token(self) -> None:
        bare = SimpleNamespace(mask_token_id=None)
        with pytest.raises(ValueError, match=r"^teacher.tokenizer: SimpleNamespace has no mask token"):
            Masking.for_tokenizer(MaskingSection(), tokenizer=bare, vocab_size=9, token_counts=None)
