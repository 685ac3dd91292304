"""Corpora and masks of every kind of tokenizer: framed as it frames a text, no special token hidden, every id known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from diito.corpus import Corpus, Framing, collate, framing_of, load_corpus
from diito.embedded import resolve
from diito.models.load import ModelSource
from diito.models.teacher import check_tokenizer, special_ids
from diito.recipe import CorpusSection
from diito.refusal import Refusal
from diito.tasks import find_task
from diito.tasks.masked_lm import IGNORED, UNUSED, MaskedLM
from diito.tasks.task import Task

each_kind = pytest.mark.parametrize("kind", kinds.KINDS)
NAMES = {"xlm-r": ("<s>", "</s>", "<mask>"), "roberta": ("<s>", "</s>", "<mask>")}
"""First, last and mask token, where they are not BERT's."""


def tokenizer_of(kind: str) -> Any:
    return AutoTokenizer.from_pretrained(kinds.teacher_of(kind))


def load(tokenizer: Any, folder: Path, texts: list[str], **fields: Any) -> Corpus:
    path = folder / "text.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    settings = {
        "workers": 1,
        "cache": str(folder / "cache"),
        "length": kinds.LONGEST,
        "minimum_tokens": 1,
        "maximum_unknown": 1,
    }
    section = CorpusSection(sources=[str(path)], **(settings | fields))
    return load_corpus(section, tokenizer=tokenizer, seed=0)


def rows(corpus: Corpus) -> list[list[int]]:
    return [corpus[index]["input_ids"].tolist() for index in range(len(corpus))]


def phrases(words: int = 8) -> list[str]:
    """The first words of each paragraph, short enough for one sequence of any kind."""
    paragraphs = [line for line in kinds.text() if "<unk>" not in line]
    return [" ".join(line.split()[: 1 + number % words]) for number, line in enumerate(paragraphs)]


def words_only(template: str, *specials: str, **names: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that adds what ``template`` says."""
    vocabulary = {token: number for number, token in enumerate([*specials, *(f"w{number}" for number in range(20))])}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return kinds.framed(template, backend, **names)


class TestCorpus:
    @each_kind
    def test_lines_are_what_the_tokenizer_makes_of_each_document(self, kind: str, tmp_path: Path) -> None:
        tokenizer, texts = tokenizer_of(kind), phrases()
        assert rows(load(tokenizer, tmp_path, texts, layout="lines")) == [tokenizer(text)["input_ids"] for text in texts]

    @each_kind
    def test_blocks_hold_the_text_between_the_tokenizers_own_ends(self, kind: str, tmp_path: Path) -> None:
        tokenizer, texts = tokenizer_of(kind), phrases()
        corpus = rows(load(tokenizer, tmp_path, texts, length=16))
        first, last, _ = NAMES.get(kind, ("[CLS]", "[SEP]", ""))
        assert {tuple(tokenizer.convert_ids_to_tokens([row[0], row[-1]])) for row in corpus} == {(first, last)}
        stream = itertools.chain.from_iterable(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        assert [token for row in corpus for token in row[1:-1]] == list(stream)[: 14 * len(corpus)]

    @each_kind
    def test_the_models_read_the_longest_padded_rows(self, kind: str, tmp_path: Path) -> None:
        tokenizer = tokenizer_of(kind)
        corpus = load(tokenizer, tmp_path, list(kinds.text()[:20]), layout="lines")
        assert corpus.lengths is not None and corpus.lengths.max() == kinds.LONGEST and corpus.lengths.min() < kinds.LONGEST
        model = AutoModelForMaskedLM.from_pretrained(kinds.teacher_of(kind)).eval()
        batch = collate(corpus.__getitems__(list(range(len(corpus)))), pad_token_id=tokenizer.pad_token_id)
        assert len(corpus.token_counts) <= model.config.vocab_size
        with torch.no_grad():
            logits = model(**batch).logits
        assert logits.isfinite().all() and logits.std() > 0.1

    @each_kind
    def test_wikitexts_unknown_words_are_unknown(self, kind: str, tmp_path: Path) -> None:
        tokenizer = tokenizer_of(kind)
        (row,) = rows(load(tokenizer, tmp_path, ["the <unk> of"], layout="lines"))
        assert row.count(tokenizer.unk_token_id) == 1

    @pytest.mark.parametrize("ends", [{"eos": "<|end|>", "bos": "<|end|>", "pad": "<|end|>"}, {"eos": "b", "pad": "b"}])
    def test_a_tokenizer_without_an_unknown_token_reads_the_text_as_it_stands(self, ends: Any, tmp_path: Path) -> None:
        """GPT-2 calls the token that ends a document unknown, and so do chat models whose eos ends a turn; it must not stand
        inside one."""
        backend = Tokenizer(models.BPE({character: number for number, character in enumerate("<unk> abc")}, []))
        backend.add_special_tokens(["<|end|>"])
        tokenizer = kinds.framed("$A", backend, unk="<|end|>", **ends)
        (row,) = rows(load(tokenizer, tmp_path, ["a <unk> c"], layout="lines"))
        assert tokenizer.decode(row).replace(" ", "") == "a<unk>c" and tokenizer.unk_token_id not in row


FRAMINGS = {
    "none": ("$A", Framing()),
    "eos": ("$A </s>", Framing((), (1,))),
    "bos": ("<s> $A", Framing((0,), ())),
    "three": ("<s> <l> $A </s>", Framing((0, 2), (1,))),
}
"""What a tokenizer adds, as its template and as ids."""


class TestFraming:
    @pytest.mark.parametrize("case", FRAMINGS)
    @pytest.mark.parametrize("layout", ["blocks", "lines"])
    def test_any_number_of_ids_on_either_side(self, case: str, layout: str, tmp_path: Path) -> None:
        template, framing = FRAMINGS[case]
        tokenizer = words_only(template, "<s>", "</s>", "<l>", "<pad>", bos="<s>", eos="</s>", pad="<pad>")
        assert framing_of(tokenizer) == framing
        corpus = rows(load(tokenizer, tmp_path, ["w0 w1 w2 w3 w4"] * 4, length=5 + len(framing), layout=layout))
        assert corpus == [[*framing.before, 4, 5, 6, 7, 8, *framing.after]] * 4

    def test_named_ends_stand_in_for_a_missing_post_processor(self) -> None:
        tokenizer = words_only("$A", "[CLS]", "[SEP]", cls="[CLS]", sep="[SEP]")
        assert framing_of(tokenizer) == Framing((0,), (1,))

    def test_a_python_tokenizer(self, tmp_path: Path) -> None:
        from transformers import EsmTokenizer

        path = tmp_path / "vocab.txt"
        path.write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", *"LAGV", "<mask>"]), encoding="utf-8")
        tokenizer = EsmTokenizer(str(path))
        assert framing_of(tokenizer) == Framing((0,), (2,)) and special_ids(tokenizer) == [0, 1, 2]
        assert rows(load(tokenizer, tmp_path, ["LAGV"], layout="lines")) == [[0, 4, 5, 6, 7, 2]]

    def test_no_room_for_a_token(self, tmp_path: Path) -> None:
        one = words_only("$A </s>", "</s>", "<pad>", eos="</s>", pad="<pad>")
        with pytest.raises(Refusal, match=r"^corpus.length: 1 leaves no room for a token beside </s>; give at least 2$"):
            load(one, tmp_path, ["w0"], length=1)
        with pytest.raises(Refusal, match=r"^corpus.length: .* one block of 9 takes 8 beside </s>; give a length of at most 2"):
            load(one, tmp_path, ["w0"], length=9)

    def test_the_corpora_of_0_1_0_keep_their_tokens(self, tmp_path: Path) -> None:
        """Digests written down before framing was read from the tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(resolve("embedded:teacher-minilm-mlm"))
        digests = {"blocks": "fe8adb83b046707a069bb2a6fe03924b", "lines": "e10ee11ab57028fd4f4dde7db8648e5f"}
        for layout, digest in digests.items():
            section = CorpusSection(
                sources=["embedded:wikitext-2/valid.txt.gz"], layout=layout, length=16, workers=1, cache=str(tmp_path)
            )
            assert load_corpus(section, tokenizer=tokenizer, seed=0).digest() == digest


class TestMaskedLM:
    def batches(self, kind: str, folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Tokenizer; padded rows; the objective's batch of them; the same draws in the form of 0.1.0."""
        tokenizer = tokenizer_of(kind)
        corpus = load(tokenizer, folder, phrases() * 3, layout="lines")
        read = collate(corpus.__getitems__(list(range(len(corpus)))), pad_token_id=tokenizer.pad_token_id)
        vocabulary = AutoModelForMaskedLM.from_pretrained(kinds.teacher_of(kind)).config.vocab_size
        batching = MaskedLM().batching(tokenizer=tokenizer, vocab_size=vocabulary, token_counts=corpus.token_counts)
        batch = batching.batch(read, generator=torch.Generator().manual_seed(0))
        return tokenizer, read, batch, batching(read, generator=torch.Generator().manual_seed(0))

    @each_kind
    def test_labels_are_the_tokens_that_stood_at_the_slots(self, kind: str, tmp_path: Path) -> None:
        _, read, batch, old = self.batches(kind, tmp_path)
        used = batch["slots"] != UNUSED
        assert torch.equal(batch["labels"][used], read["input_ids"].gather(1, batch["slots"].clamp(min=0))[used])
        assert (batch["labels"][~used] == IGNORED).all() and (~used).any() and used.any(1).all()
        assert set(batch) == {"input_ids", "attention_mask", "slots", "labels"}
        assert torch.equal(batch["slots"], old["masked_positions"]) and torch.equal(batch["input_ids"], old["input_ids"])

    @each_kind
    def test_no_special_token_is_hidden_or_drawn_and_most_slots_hold_the_mask(self, kind: str, tmp_path: Path) -> None:
        tokenizer, read, batch, _ = self.batches(kind, tmp_path)
        used = batch["slots"] != UNUSED
        specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert not specials & set(batch["labels"][used].tolist())
        shown = batch["input_ids"].gather(1, batch["slots"].clamp(min=0))[used]
        hidden = shown == tokenizer.mask_token_id
        assert tokenizer.mask_token == NAMES.get(kind, ("", "", "[MASK]"))[2] and 0.7 < hidden.double().mean() < 0.9
        assert not specials & set(shown[~hidden].tolist())
        assert set(shown.tolist()) <= set(tokenizer.get_vocab().values()), "the model's spare ids are never drawn"
        unchanged = torch.ones_like(read["input_ids"], dtype=torch.bool)
        unchanged.scatter_(1, batch["slots"].clamp(min=0), ~used)
        assert torch.equal(batch["input_ids"][unchanged], read["input_ids"][unchanged])

    @pytest.mark.parametrize(("template", "slots"), [("$A", 10), ("$A </s>", 9), ("<s> $A </s>", 8), ("<s> <s> $A </s>", 7)])
    def test_slots_are_a_share_of_what_stands_within_the_framing(self, template: str, slots: int) -> None:
        from diito.recipe import MaskingSection

        tokenizer = words_only(template, "<s>", "</s>", "<mask>", bos="<s>", eos="</s>", mask="<mask>")
        batching = MaskedLM().batching(MaskingSection(rate=1.0), tokenizer=tokenizer, vocab_size=23)
        ids = torch.tensor(tokenizer("w1 " * (10 - len(framing_of(tokenizer))))["input_ids"])
        batch = batching.batch({"input_ids": ids.repeat(3, 1)}, generator=torch.Generator().manual_seed(0))
        assert batch["slots"].shape == (3, slots) and (batch["labels"] == 4).all()

    def test_a_swap_reaches_every_slot_of_its_row(self) -> None:
        slots = torch.tensor([[1, 3], [2, UNUSED], [1, 2]])
        positions = torch.tensor([[True, False, False, False, False], [False, False, False, True, False], [False] * 5])
        assert MaskedLM().reach(slots, positions).tolist() == [[True, True], [True, False], [False, False]]

    @each_kind
    def test_never_swapped_are_the_ends_and_padding(self, kind: str) -> None:
        tokenizer = tokenizer_of(kind)
        ends = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
        assert set(MaskedLM().special_ids(tokenizer)) == set(special_ids(tokenizer)) == ends


class TestCheck:
    SOURCE = ModelSource("some-model", "teacher.model")

    @each_kind
    def test_every_kind_fits_its_model(self, kind: str) -> None:
        source, tokenizer = ModelSource(kinds.teacher_of(kind)), tokenizer_of(kind)
        check_tokenizer(
            tokenizer,
            source,
            vocabulary=max(tokenizer.get_vocab().values()) + 1,
            field="teacher.tokenizer",
            needed=("mask_token",),
        )

    def test_the_largest_id_counts_and_not_the_number_of_words(self) -> None:
        names = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 40}
        tokenizer = BertTokenizer(vocab=names)
        check_tokenizer(tokenizer, self.SOURCE, vocabulary=41, field="teacher.tokenizer", needed=("mask_token",))
        with pytest.raises(Refusal, match=r"^teacher.tokenizer: .* 5 words with ids up to 40, .* knows only ids below 40;"):
            check_tokenizer(tokenizer, self.SOURCE, vocabulary=40, field="teacher.tokenizer", needed=("mask_token",))

    def test_only_what_the_task_needs_must_be_there(self) -> None:
        bare = words_only("$A", "<mask>", mask="<mask>")
        check_tokenizer(bare, self.SOURCE, vocabulary=21, field="teacher.tokenizer", needed=MaskedLM.needed_tokens)
        with pytest.raises(
            Refusal, match=r"^teacher.model: the tokenizer of 'some-model' has no mask_token; give one that has"
        ):
            check_tokenizer(words_only("$A"), self.SOURCE, vocabulary=20, field="teacher.tokenizer", needed=("mask_token",))


class Outside(MaskedLM):
    """A task of a user's own."""

    name = "outside"


class TestTable:
    def test_a_task_by_name_and_by_import_path(self) -> None:
        task = find_task("masked-lm")
        assert isinstance(task, Task) and (task.name, task.pipeline_tag, task.metric) == (
            "masked-lm",
            "fill-mask",
            "perplexity",
        )
        assert task.head is AutoModelForMaskedLM
        assert find_task(f"{__name__}:Outside").name == "outside"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("masked_lm", r"'masked_lm' is not known; did you mean masked-lm"),
            ("no.such.module:Task", r"no.such.module:Task cannot be imported: "),
            ("json:dumps", r"'json:dumps' is no diito.tasks.task.Task; give a class that is one"),
        ],
    )
    def test_what_is_no_task(self, name: str, message: str) -> None:
        with pytest.raises(Refusal, match=f"^objective.task: {message}"):
            find_task(name, field="objective.task")
