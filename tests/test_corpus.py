"""Text to sequences: every source format, both layouts on hand-worked examples, the cache, the order of rows, the
errors."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import skip_first_batches
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from diito.corpus import Corpus, collate, load_corpus
from diito.corpus import formats as formats_module
from diito.corpus import store as corpus_module
from diito.corpus import tokenise as tokenise_module
from diito.corpus.sampler import ShuffledSampler
from diito.corpus.sources import LocalFiles, check_sources
from diito.corpus.tokenise import Tokeniser
from diito.recipe import CorpusSection, SourceSection
from diito.refusal import Refusal

PAD, UNK, CLS, SEP, MASK = range(5)
FIRST_WORD = 5
"""Id of the word w0; w1 is the next, and so on."""


def make_tokenizer(words: int = 200) -> Any:
    """A BERT tokenizer that knows the words w0, w1, ...: the id of wN is N + 5."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{number}" for number in range(words)]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture
def load(tmp_path: Path, tokenizer: Any) -> Callable[..., Corpus]:
    """load(sources, **fields of the section) with a cache of this test's own."""

    def load_with(sources: Any, *, seed: int = 0, tokenizer: Any = tokenizer, **fields: Any) -> Corpus:
        settings = {"workers": 1, "cache": str(tmp_path / "cache"), "length": 10, "minimum_tokens": 3} | fields
        sources = sources if isinstance(sources, list) else [sources]
        sources = [str(source) if isinstance(source, Path) else source for source in sources]
        return load_corpus(CorpusSection(sources=sources, **settings), tokenizer=tokenizer, seed=seed)

    return load_with


def words(numbers: Iterable[int]) -> str:
    return " ".join(f"w{number}" for number in numbers)


def rows(corpus: Corpus) -> list[list[int]]:
    return [corpus[index]["input_ids"].tolist() for index in range(len(corpus))]


def wrapped(numbers: Iterable[int]) -> list[int]:
    return [CLS, *(FIRST_WORD + number for number in numbers), SEP]


DOCUMENTS = [words(range(0, 3)), words(range(3, 9)), words(range(9, 14))]
TEXT = f"{DOCUMENTS[0]}\n\n  \n{DOCUMENTS[1]}\n{DOCUMENTS[2]}\n"
AS_LINES = [wrapped(range(0, 3)), wrapped(range(3, 9)), wrapped(range(9, 14))]


def write_txt(path: Path) -> Path:
    path.write_text(TEXT, encoding="utf-8")
    return path


def write_jsonl(path: Path, column: str = "text") -> Path:
    values = [*DOCUMENTS, "", None]
    path.write_text("\n".join(json.dumps({"id": 1, column: value}) for value in values) + "\n\n", encoding="utf-8")
    return path


def write_parquet(path: Path, column: str = "text") -> Path:
    pq.write_table(pa.table({"id": range(5), column: [DOCUMENTS[0] + "\n", *DOCUMENTS[1:], " ", None]}), path)
    return path


WRITERS = {"txt": write_txt, "jsonl": write_jsonl, "parquet": write_parquet}
COMPRESSORS = {"": None, ".gz": gzip.compress, ".xz": lzma.compress}


class TestSources:
    @pytest.mark.parametrize("compression", COMPRESSORS)
    @pytest.mark.parametrize("kind", WRITERS)
    def test_every_format_gives_the_same(self, tmp_path: Path, load: Any, kind: str, compression: str) -> None:
        path = WRITERS[kind](tmp_path / f"a.{kind}")
        if compression:
            packed = tmp_path / f"a.{kind}{compression}"
            packed.write_bytes(COMPRESSORS[compression](path.read_bytes()))
            path = packed
        check_sources([str(path)], field="corpus.sources")
        corpus = load(path, layout="lines")
        assert rows(corpus) == AS_LINES
        assert corpus.statistics.documents == 3

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_another_column(self, tmp_path: Path, load: Any, kind: str) -> None:
        path = {"jsonl": write_jsonl, "parquet": write_parquet}[kind](tmp_path / f"a.{kind}", column="body")
        source = SourceSection(path=str(path), column="body")
        check_sources([source], field="corpus.sources")
        assert rows(load([source], layout="lines")) == AS_LINES

    def test_folder_glob_and_several_sources_keep_their_order(self, tmp_path: Path, load: Any) -> None:
        folder = tmp_path / "texts"
        (folder / "inner").mkdir(parents=True)
        (folder / ".hidden").mkdir()
        for name, number in (("b.txt", 1), ("a.txt", 0), ("inner/c.txt", 2), (".hidden/d.txt", 3), ("README.md", 4)):
            (folder / name).write_text(words([number] * 3), encoding="utf-8")
        in_folder = [wrapped([0] * 3), wrapped([1] * 3), wrapped([2] * 3)]
        assert rows(load(folder, layout="lines")) == in_folder
        assert rows(load(f"{folder}/*.txt", layout="lines")) == in_folder[:2]
        assert rows(load(f"{folder}/**/*.txt", layout="lines")) == in_folder
        assert rows(load([f"{folder}/b.txt", SourceSection(path=f"{folder}/a.txt")], layout="lines")) == [
            in_folder[1],
            in_folder[0],
        ]

    def test_hub_dataset(self, monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
        asked = []

        def load_dataset(*args: Any, **options: Any) -> datasets.Dataset:
            asked.append((args, options))
            return datasets.Dataset.from_dict({"text": ["", *(text + " \n" for text in DOCUMENTS)], "id": range(4)})

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        source = SourceSection(dataset="some/text", config="plain", split="test", revision="v1")
        assert rows(load([source], layout="lines")) == AS_LINES
        assert asked[0] == (("some/text", "plain"), {"split": "test", "revision": "v1"})

    def test_byte_order_mark_is_no_text(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
        assert rows(load(path, layout="lines")) == AS_LINES


def broken_sources(folder: Path) -> dict[str, tuple[Any, str]]:
    """By name: a source that cannot be read, and what the one sentence must say."""
    text = write_txt(folder / "good.txt")
    (folder / "empty.txt").write_text("\n \n", encoding="utf-8")
    (folder / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(TEXT.encode() * 50)[:-12])
    (folder / "fake.txt.xz").write_bytes(b"plain text")
    (folder / "not.jsonl").write_text("just text\n", encoding="utf-8")
    (folder / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    (folder / "number.jsonl").write_text('{"text": 3}\n', encoding="utf-8")
    (folder / "fake.parquet").write_text("plain text", encoding="utf-8")
    (folder / "a.docx").write_text("text\n", encoding="utf-8")
    (folder / "bare").mkdir()
    write_jsonl(folder / "body.jsonl", column="body")
    write_parquet(folder / "body.parquet", column="body")
    return {
        "none": (None, "no source is given"),
        "neither": (SourceSection(), "exactly one of path and dataset, and this one has neither"),
        "both": (SourceSection(path=str(text), dataset="a/b"), "this one has both"),
        "glob": (
            f"{folder}/x*.txt",
            "no file matches '.*x\\*.txt'; give a file, a folder or a glob of .txt, .jsonl, .csv",
        ),
        "missing": (f"{folder}/nothing.txt", "no file matches"),
        "folder": (f"{folder}/bare", "holds no file of a kind that is read: .txt"),
        "suffix": (f"{folder}/a.docx", "a.docx' is of a kind that is not read; give .txt"),
        "empty": (f"{folder}/empty.txt", "empty.txt' is empty"),
        "latin": (f"{folder}/latin.txt", "latin.txt' is not UTF-8"),
        "cut": (f"{folder}/cut.txt.gz", "cut.txt.gz' is damaged or not a whole .gz file"),
        "xz": (f"{folder}/fake.txt.xz", "fake.txt.xz' is damaged or not a whole .xz file"),
        "json": (f"{folder}/not.jsonl", "not.jsonl, line 1 is not JSON"),
        "object": (f"{folder}/list.jsonl", "line 1 is not a JSON object"),
        "number": (f"{folder}/number.jsonl", "column 'text' holds int, not text"),
        "parquet": (f"{folder}/fake.parquet", "fake.parquet' is not a whole parquet file"),
        "jsonl column": (f"{folder}/body.jsonl", "no column 'text'; its columns are id, body"),
        "parquet column": (f"{folder}/body.parquet", "no column 'text'; its columns are id, body"),
        "embedded": ("embedded:nothing", "embedded:nothing: diito holds nothing of that name"),
    }


@pytest.mark.parametrize("name", [
    "none", "neither", "both", "glob", "missing", "folder", "suffix", "empty", "latin", "cut", "xz", "json", "object",
    "number", "parquet", "jsonl column", "parquet column", "embedded",
])  # fmt: skip
def test_unreadable_source_is_named_in_one_sentence(tmp_path: Path, name: str) -> None:
    source, message = broken_sources(tmp_path)[name]
    with pytest.raises(ValueError, match=message) as caught:
        check_sources([] if source is None else [source], field="evaluation.sources")
    assert str(caught.value).startswith("evaluation.sources: ")
    assert len(str(caught.value).splitlines()) == 1


def test_what_the_early_check_does_not_reach_is_named_while_reading(
    tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats_module, "CHECKED_CHARACTERS", 10)
    path = tmp_path / "a.txt"
    path.write_bytes((TEXT * 2_000).encode() + b"\xe9\n")
    check_sources([str(path)], field="corpus.sources")
    with pytest.raises(ValueError, match=r"corpus.sources: .* is not UTF-8"):
        load(path)
    assert not list((tmp_path / "cache").glob("*.partial-*"))


class TestBlocks:
    def test_hand_worked(self, tmp_path: Path, load: Any) -> None:
        corpus = load(write_txt(tmp_path / "a.txt"), length=6)
        assert rows(corpus) == [wrapped(range(0, 4)), wrapped(range(4, 8)), wrapped(range(8, 12))]
        assert corpus[0]["input_ids"].dtype == torch.long
        assert corpus.lengths is None
        assert corpus.layout == "blocks"
        statistics = corpus.statistics
        assert (statistics.documents, statistics.documents_used, statistics.sequences) == (3, 3, 3)
        assert (statistics.tokens, statistics.longest, statistics.mean_length) == (18, 6, 6.0)
        assert statistics.dropped == {"tokens that fill no block": 2}
        assert "3 of 3 documents gave 3 blocks of 6 tokens" in str(statistics)
        assert "2 tokens that fill no block" in statistics.describe()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_no_token_is_lost_between_chunks_and_workers(
        self, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch, workers: int
    ) -> None:
        monkeypatch.setattr(tokenise_module, "CHUNK_CHARACTERS", 50)
        monkeypatch.setattr(corpus_module, "_BATCH_TOKENS", 64)
        random = np.random.default_rng(0)
        numbers = [random.integers(0, 200, size=random.integers(1, 40)).tolist() for _ in range(300)]
        path = tmp_path / "a.txt"
        path.write_text("\n".join(words(document) for document in numbers), encoding="utf-8")
        corpus = load(path, length=17, workers=workers)
        expected = [FIRST_WORD + number for document in numbers for number in document]
        whole = len(expected) // 15 * 15
        got = np.array(rows(corpus))
        assert got.shape == (whole // 15, 17)
        assert (got[:, 0] == CLS).all() and (got[:, -1] == SEP).all()
        assert got[:, 1:-1].ravel().tolist() == expected[:whole]
        assert corpus.statistics.dropped == {"tokens that fill no block": len(expected) - whole}
        counts = np.bincount(got.ravel(), minlength=205)
        assert corpus.token_counts.tolist() == counts.tolist()

    def test_stored_in_two_bytes_where_the_vocabulary_allows(self, tmp_path: Path, load: Any) -> None:
        path = write_txt(tmp_path / "a.txt")
        assert load(path).dataset.features["input_ids"] == datasets.List(datasets.Value("uint16"), length=10)
        large = make_tokenizer(words=70_000)
        path.write_text(words([69_999] * 8), encoding="utf-8")
        corpus = load(path, tokenizer=large)
        assert corpus.dataset.features["input_ids"] == datasets.List(datasets.Value("int32"), length=10)
        assert rows(corpus) == [wrapped([69_999] * 8)]


class TestLines:
    def test_hand_worked(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        # 3 words; 20 words, split as 8 + 8 + 4; 17 words, split as 8 + 8 + 1, of which the last is too short.
        documents = [range(0, 3), range(10, 30), range(30, 47)]
        path.write_text("\n".join(words(document) for document in documents), encoding="utf-8")
        corpus = load(path, layout="lines", length=10, minimum_tokens=4)
        pieces = [range(0, 3), range(10, 18), range(18, 26), range(26, 30), range(30, 38), range(38, 46)]
        assert rows(corpus) == [wrapped(piece) for piece in pieces]
        assert corpus.lengths is not None
        assert corpus.lengths.dtype == np.int32
        assert corpus.lengths.tolist() == [5, 10, 10, 6, 10, 10]
        statistics = corpus.statistics
        assert (statistics.sequences, statistics.tokens, statistics.longest) == (6, 51, 10)
        assert statistics.dropped == {"sequences too short": 1, "sequences mostly unknown": 0}
        assert int(corpus.token_counts.sum()) == 51

    def test_minimum_counts_the_specials(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_text(f"{words(range(9))}\n{words(range(10))}\n", encoding="utf-8")
        corpus = load(path, layout="lines", length=64, minimum_tokens=12)
        assert rows(corpus) == [wrapped(range(10))]

    def test_unknown_share_counts_the_specials_and_half_is_too_much(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        # 8 words and 2 specials: 5 unknown of 10 is dropped, 4 of 10 kept.
        path.write_text(f"{words(range(3))} {'zz ' * 5}\n{words(range(4))} {'zz ' * 4}\n", encoding="utf-8")
        corpus = load(path, layout="lines", length=64)
        assert rows(corpus) == [[CLS, *range(FIRST_WORD, FIRST_WORD + 4), UNK, UNK, UNK, UNK, SEP]]
        assert corpus.statistics.dropped["sequences mostly unknown"] == 1

    def test_the_unknown_of_wikitext_is_one_token(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_text("w0 <unk> w1 w2 w3\n", encoding="utf-8")
        assert rows(load(path, layout="lines")) == [[CLS, 5, UNK, 6, 7, 8, SEP]]

    def test_a_tokenizer_that_knows_unk_keeps_its_own(self, tmp_path: Path, load: Any) -> None:
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b"]
        backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        roberta = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", **names)
        assert Tokeniser.for_tokenizer(roberta, field="corpus").replacement is None
        path = tmp_path / "a.txt"
        path.write_text("a <unk> b a\n", encoding="utf-8")
        assert rows(load(path, layout="lines", tokenizer=roberta)) == [[0, 5, 3, 6, 5, 2]]

    def test_statistics_add_up_across_chunks(self, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenise_module, "CHUNK_CHARACTERS", 100)
        random = np.random.default_rng(1)
        documents = [
            " ".join(random.choice(["zz", "w1", "w2"], p=[0.4, 0.3, 0.3], size=random.integers(1, 60))) for _ in range(400)
        ]
        path = tmp_path / "a.txt"
        path.write_text("\n".join(documents), encoding="utf-8")
        corpus = load(path, layout="lines", length=20, minimum_tokens=12, workers=2)
        pieces = sum(-(-len(document.split()) // 18) for document in documents)
        assert corpus.statistics.sequences + sum(corpus.statistics.dropped.values()) == pieces
        assert min(corpus.statistics.dropped.values()) > 0
        assert corpus.lengths is not None and int(corpus.lengths.sum()) == corpus.statistics.tokens
        for row in rows(corpus):
            assert 12 <= len(row) <= 20 and row.count(UNK) < len(row) / 2


class TestShare:
    def test_exact_seeded_and_in_order(self, tmp_path: Path, load: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_text("\n".join(words([number] * 3) for number in range(150)), encoding="utf-8")

        def kept(share: float, seed: int) -> list[int]:
            corpus = load(path, layout="lines", share=share, seed=seed)
            assert corpus.statistics.documents == 150
            assert corpus.statistics.documents_used == len(corpus) == round(share * 150)
            return [row[1] - FIRST_WORD for row in rows(corpus)]

        first = kept(0.15, seed=1)
        assert first == sorted(set(first))
        shutil.rmtree(tmp_path / "cache")
        assert kept(0.15, seed=1) == first
        assert kept(0.15, seed=2) != first
        assert kept(0.993, seed=1) != list(range(149))

    def test_uniform(self) -> None:
        """Each of 20 documents in 5 of 20: 2,000 seeds give 500 each, five sigma = 5 * sqrt(2000 * 1/4 * 3/4) = 97; the
        odds that any of the 20 strays further by chance are about 1 in 90,000."""

        class Twenty(LocalFiles):
            def documents(self) -> Iterator[str]:
                yield from map(str, range(20))

        counts = np.zeros(20, dtype=int)
        for seed in range(2_000):
            chosen = list(tokenise_module.Documents([Twenty((), "text", "")], share=0.25, seed=seed))
            assert len(chosen) == 5
            counts[[int(number) for number in chosen]] += 1
        assert np.abs(counts - 500).max() < 97


class TestCache:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many documents each tokenisation took."""
        counted: list[int] = []
        original = Tokeniser.__call__

        def count(self: Tokeniser, texts: list[str]) -> Any:
            counted.append(len(texts))
            return original(self, texts)

        monkeypatch.setattr(Tokeniser, "__call__", count)
        return counted

    def test_reused_until_something_that_matters_changes(
        self, tmp_path: Path, load: Any, calls: list[int], tokenizer: Any
    ) -> None:
        path = write_txt(tmp_path / "a.txt")
        first = rows(load(path))
        assert calls == [3]
        again = load(path, workers=2, seed=9, minimum_tokens=5)
        assert rows(again) == first and again.statistics.documents == 3 and int(again.token_counts.sum()) == 10
        tokenizer("w1", truncation=True, max_length=3, padding="max_length")  # leaves its mark on the tokenizer
        load(path)
        assert calls == [3], "neither workers nor an unused seed or rule makes another corpus"
        for change in ({"length": 6}, {"layout": "lines"}, {"layout": "lines", "maximum_unknown": 0.9}, {"share": 0.7}):
            before = len(calls)
            load(path, **change)
            assert len(calls) == before + 1, change
        load(path, tokenizer=make_tokenizer(words=100))
        assert len(calls) == 6
        path.write_text(TEXT.replace("w1 ", "w7 "), encoding="utf-8")
        assert rows(load(path)) != first
        assert len(calls) == 7

    def test_default_folder_is_that_of_datasets(self, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "theirs")
        load(write_txt(tmp_path / "a.txt"), cache=None)
        assert len(list((tmp_path / "theirs" / "diito").glob("*/corpus.arrow"))) == 1

    def test_failure_leaves_nothing(self, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_txt(tmp_path / "a.txt")

        def fail(*args: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Tokeniser, "__call__", fail)
            with pytest.raises(KeyboardInterrupt):
                load(path)
        assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] in ([], [".lock"])
        assert len(load(path)) == 1

    @pytest.mark.soak
    def test_kill_leaves_nothing_that_is_used_and_no_worker(self, tmp_path: Path, load: Any, tokenizer: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_text((words(range(200)) + "\n") * 8_000, encoding="utf-8")
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        code = (
            "import sys; from transformers import AutoTokenizer; from diito.corpus import load_corpus\n"
            "from diito.recipe import CorpusSection\n"
            f"section = CorpusSection(sources=[{str(path)!r}], length=10, cache={str(tmp_path / 'cache')!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 'tokenizer')!r})\n"
            "load_corpus(section, tokenizer=tokenizer, seed=0)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        wait_until(lambda: any(file.stat().st_size > 500_000 for file in tmp_path.glob("cache/*/corpus.arrow")))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(".partial-" in file.parent.name for file in tmp_path.glob("cache/*/corpus.arrow"))
        wait_until(lambda: not group_alive(process.pid))
        corpus = load(path, workers=2)
        assert corpus.statistics.tokens == corpus.statistics.sequences * 10 == 1_600_000 // 8 * 10
        assert not list((tmp_path / "cache").glob("*.partial-*"))

    @pytest.mark.soak  # two starts of Python
    def test_two_processes_at_once(self, tmp_path: Path, tokenizer: Any) -> None:
        path = tmp_path / "a.txt"
        path.write_text((words(range(200)) + "\n") * 3_000, encoding="utf-8")
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        code = (
            "from transformers import AutoTokenizer; from diito.corpus import load_corpus\n"
            "from diito.recipe import CorpusSection\n"
            f"cache = {str(tmp_path / 'cache')!r}\n"
            f"section = CorpusSection(sources=[{str(path)!r}], length=10, workers=1, cache=cache)\n"
            f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / 'tokenizer')!r})\n"
            "print(load_corpus(section, tokenizer=tokenizer, seed=0).statistics.sequences)\n"
        )
        both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate()[0].strip() for process in both] == ["75000", "75000"]
        assert len(list((tmp_path / "cache").glob("*/corpus.arrow"))) == 1


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class TestErrorsOfACorpus:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"length": 512}, "length: the corpus has 14 tokens, and one block of 512 takes 510 .* at most 16"),
            ({"length": 2}, "length: 2 leaves no room"),
            ({"share": 0.1}, "share: 0.1 of 3 documents is none; give at least 0.33"),
            ({"share": 0.0}, "share: 0.0 is no share"),
            ({"workers": 0}, "workers: 0 processes"),
            ({"layout": "lines", "minimum_tokens": 12}, "minimum_tokens: no sequence is left, 3 have fewer than 12"),
        ],
    )
    def test_named(self, tmp_path: Path, load: Any, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^corpus.{message}") as caught:
            load(write_txt(tmp_path / "a.txt"), **fields)
        assert len(str(caught.value).splitlines()) == 1
        assert not list((tmp_path / "cache").glob("*/corpus.arrow"))

    def test_no_documents(self, tmp_path: Path, load: Any) -> None:
        (tmp_path / "a.txt").write_text("\n \n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"^corpus.sources: there is no document"):
            load(tmp_path / "a.txt")

    def test_hub_dataset_out_of_reach_or_without_the_column(self, monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
        def refuse(*args: Any, **options: Any) -> None:
            raise ConnectionError("Couldn't reach 'some/text' on the Hub\nmore")

        monkeypatch.setattr(datasets, "load_dataset", refuse)
        with pytest.raises(ValueError, match=r"^corpus.sources: the hub dataset 'some/text' .* give a local copy$"):
            load([SourceSection(dataset="some/text")])
        table = datasets.Dataset.from_dict({"body": ["a"], "id": [1]})
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: table)
        with pytest.raises(ValueError, match=r"^corpus.sources: .*'some/text' has no column 'text'.* body, id$"):
            load([SourceSection(dataset="some/text")])

    def test_lines_without_a_pad_token(self, tmp_path: Path, load: Any) -> None:
        bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
        with pytest.raises(Refusal, match=r"^corpus.layout: .* has no pad token; give blocks"):
            load(write_txt(tmp_path / "a.txt"), tokenizer=bare, layout="lines")


def test_long_documents_bring_no_warning_about_the_model(tmp_path: Path, load: Any, caplog: Any, capfd: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text(words([1] * 2_000), encoding="utf-8")
    with caplog.at_level("WARNING"):
        load(path)
    assert "512" not in caplog.text + capfd.readouterr().err


class TestReading:
    def test_rows_asked_for_in_any_order(self, tmp_path: Path, load: Any) -> None:
        corpus = load(write_txt(tmp_path / "a.txt"), layout="lines")
        read = corpus.__getitems__([2, 0, 2])
        assert [row["input_ids"].tolist() for row in read] == [AS_LINES[2], AS_LINES[0], AS_LINES[2]]
        assert len(corpus) == 3

    def test_collate_masks_only_where_it_pads(self) -> None:
        three, two = {"input_ids": torch.tensor([7, 8, 9])}, {"input_ids": torch.tensor([5, 6])}
        same = collate([three, three], pad_token_id=PAD)
        assert set(same) == {"input_ids"} and same["input_ids"].tolist() == [[7, 8, 9], [7, 8, 9]]
        padded = collate([two, three], pad_token_id=1)
        assert padded["input_ids"].tolist() == [[5, 6, 1], [7, 8, 9]]
        assert padded["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
        assert padded["attention_mask"].dtype == torch.long
        assert set(collate([two, two], pad_token_id=None)) == {"input_ids"}
        with pytest.raises(ValueError, match=r"^teacher.tokenizer: .* no padding token"):
            collate([two, three], pad_token_id=None)

    def test_loader_with_worker_processes(self, tmp_path: Path, load: Any) -> None:
        corpus = load(write_txt(tmp_path / "a.txt"), length=4)
        options: Any = {"batch_size": 2, "collate_fn": lambda read: collate(read, pad_token_id=PAD)}
        here = [batch["input_ids"].tolist() for batch in DataLoader(corpus, **options)]
        there = [batch["input_ids"].tolist() for batch in DataLoader(corpus, num_workers=2, **options)]
        assert here == there and len(here) == 4


class TestSampler:
    LENGTHS = np.random.default_rng(0).integers(12, 512, size=1_003).astype(np.int32)

    @pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["blocks", "lines"])
    def test_a_permutation_that_depends_on_seed_and_epoch_alone(self, lengths: Any) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            sampler = ShuffledSampler(1_003, seed=seed, batch=8, lengths=lengths)
            sampler.set_epoch(epoch)
            torch.manual_seed(epoch)  # of no consequence
            first = list(sampler)
            assert list(sampler) == first and len(sampler) == len(first)
            return first

        seen = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
        assert all(sorted(rows) == list(range(1_003)) for rows in seen)
        assert all(first != second for first, second in pairwise(seen))
        assert order(0, 1) == seen[1]

    def test_batches_have_similar_lengths_and_come_in_no_order_of_length(self) -> None:
        order = list(ShuffledSampler(1_003, seed=3, batch=8, lengths=self.LENGTHS))
        batches = self.LENGTHS[order[:1_000]].reshape(-1, 8)
        padding = 1 - batches.sum() / (batches.max(1).sum() * 8)
        assert padding < 0.05, "shuffled alone it would be about 0.4"
        assert abs(np.corrcoef(np.arange(len(batches)), batches.mean(1))[0, 1]) < 0.4
        assert sorted(order[1_000:]) != sorted(np.argsort(self.LENGTHS)[-3:].tolist())

    def test_fewer_rows_than_a_batch(self) -> None:
        assert sorted(ShuffledSampler(3, seed=0, batch=8, lengths=self.LENGTHS[:3])) == [0, 1, 2]

    @pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["blocks", "lines"])
    def test_resumed_by_accelerate_inside_the_second_epoch(self, lengths: Any) -> None:
        def make() -> Any:
            sampler = ShuffledSampler(1_003, seed=5, batch=8, lengths=lengths)
            return Accelerator(cpu=True).prepare(
                DataLoader(torch.arange(1_003), sampler=sampler, batch_size=8, drop_last=True)  # type: ignore[arg-type]
            )

        straight = make()
        epochs = []
        for epoch in range(2):
            straight.set_epoch(epoch)
            epochs.append([batch.tolist() for batch in straight])
        assert epochs[0] != epochs[1]
        resumed = skip_first_batches(make(), 7)
        resumed.set_epoch(1)
        assert [batch.tolist() for batch in resumed] == epochs[1][7:]


# ------------------------------------------------------------------------------------------- documents of the sequences


def test_a_sequence_knows_the_document_it_begins_in(tmp_path: Path) -> None:
    """Documents of 3, 5 and 4 words in blocks of 4 words: [0 0 0 1], [1 1 1 1], [2 2 2 2]."""
    text = tmp_path / "text.txt"
    text.write_text("w1 w1 w1\nw2 w2 w2 w2 w2\nw3 w3 w3 w3\n", encoding="utf-8")
    section = CorpusSection(sources=[str(text)], length=6, workers=1, cache=str(tmp_path / "cache"))
    corpus = load_corpus(section, tokenizer=make_tokenizer(), seed=0)
    assert corpus.documents.tolist() == [0, 1, 2]
    section = CorpusSection(
        sources=[str(text)], layout="lines", length=6, minimum_tokens=4, workers=1, cache=str(tmp_path / "cache")
    )
    corpus = load_corpus(section, tokenizer=make_tokenizer(), seed=0)  # the rest of the second, one word, is too short
    assert [len(row["input_ids"]) for row in corpus] == [5, 6, 6] and corpus.documents.tolist() == [0, 1, 2]


@pytest.mark.parametrize("layout", ["blocks", "lines"])
def test_wikitexts_headings_make_articles_of_lines(tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across chunks, too: two articles, of which the second has a section."""
    monkeypatch.setattr(tokenise_module, "CHUNK_CHARACTERS", 10)
    lines = ["= w1 =", "w2 w2 w2 w2", "w2 w2 w2 w2 w2", "= w3 =", "= = w4 = =", "w5 w5 w5 w5 w5 w5 w5", "w5 w5"]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    section = CorpusSection(
        sources=[str(text)], layout=layout, length=4, minimum_tokens=4, workers=1, cache=str(tmp_path / "cache")
    )
    corpus = load_corpus(section, tokenizer=make_tokenizer(), seed=0)
    for row, article in zip(corpus, corpus.documents, strict=True):
        second = 3 + FIRST_WORD
        starts_in_second = int(row["input_ids"][1]) >= second or (UNK in row["input_ids"].tolist() and article == 2)
        assert article == (2 if starts_in_second else 1), row
    assert set(corpus.documents.tolist()) == {1, 2}
