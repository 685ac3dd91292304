"""Long documents in pieces: the same tokens, documents and sequences as of the whole; and files that would never end."""

import csv
import gzip
import json
import lzma
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diito import reading
from diito.corpus import Part, check_sources, formats, load_corpus, tokenise
from diito.corpus.pieces import Piece, cut, strip_and_cut
from diito.corpus.sources import find_sources
from diito.recipe import CorpusSection, SourceSection
from diito.refusal import Refusal

WORDS = [first + second for first in "abcdefg" for second in "hijklmn"]


def make_tokenizer(pre_tokenizer, first):
    vocabulary = {piece: index for index, piece in enumerate(["[CLS]", "[SEP]", "[PAD]", "[UNK]", first])}
    for word in WORDS:
        for piece in (word, first + word):
            vocabulary.setdefault(piece, len(vocabulary))
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizer
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


TOKENIZERS = {
    "white space": lambda: make_tokenizer(pre_tokenizers.WhitespaceSplit(), "_"),
    "byte level": lambda: make_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False), "Ġ"),
    "sentence piece": lambda: make_tokenizer(pre_tokenizers.Metaspace(), "▁"),
}


def text(words, seed=0):
    draws = random.Random(seed)
    return " ".join(draws.choice(WORDS) for _ in range(words))


def load(path, folder, **options):
    tokenizer = options.pop("tokenizer", None) or TOKENIZERS["white space"]()
    part = options.pop("part", None)
    fields = {"length": 12, "layout": "lines", "minimum_tokens": 3, "workers": 1, **options}
    section = CorpusSection(sources=[SourceSection(path=str(path))], cache=str(folder), **fields)
    return load_corpus(section, tokenizer=tokenizer, seed=0, part=part)


@pytest.mark.parametrize("layout", ["blocks", "lines"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_give_the_sequences_of_the_whole(tmp_path, monkeypatch, name, layout):
    path = tmp_path / "a.txt"
    documents = [text(size, seed) for seed, size in enumerate([3, 2_000, 5, 10, 700, 1])]
    path.write_text("\n".join(documents), encoding="utf-8")
    tokenizer = TOKENIZERS[name]()
    whole = load(path, tmp_path / "whole", tokenizer=tokenizer, layout=layout)
    monkeypatch.setattr(tokenise, "CHUNK_CHARACTERS", 200)
    for longest in (1 << 22, 333):
        monkeypatch.setattr(formats, "LONGEST", longest)
        for batch in (1 << 19, 64):
            monkeypatch.setattr("diito.corpus.store._BATCH_TOKENS", batch)
            monkeypatch.setattr("diito.corpus.store._MOST_TOKENS", 2 * batch)
            cut_up = load(path, tmp_path / f"cut {longest} {batch}", tokenizer=tokenizer, layout=layout)
            rows = [[row["input_ids"].tolist() for row in corpus] for corpus in (whole, cut_up)]
            assert rows[0] == rows[1]
            assert np.array_equal(whole.documents, cut_up.documents)
            assert whole.statistics == cut_up.statistics


def test_a_part_takes_a_long_document_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(text(300, seed) for seed in range(20)), encoding="utf-8")
    monkeypatch.setattr(formats, "LONGEST", 100)
    sides = [load(path, tmp_path / "c", part=Part(0.5, 1, held_out=held)) for held in (True, False)]
    assert all(corpus.statistics.documents for corpus in sides)
    assert sum(corpus.statistics.documents for corpus in sides) == 20
    assert sum(int(corpus.lengths.sum()) - 2 * len(corpus) for corpus in sides) == 20 * 300


@pytest.mark.parametrize("long", [text(100), "字" * 500, "a, b." * 80, " x" + " " * 700 + "y ", "é" * 300])
def test_where_a_document_is_cut_is_told_by_its_text_alone(long):
    whole = list(strip_and_cut([long], 50))
    assert "".join(whole) == long.strip()
    assert [type(piece) for piece in whole] == [Piece] * len(whole)
    assert [piece.first for piece in whole] == [True] + [False] * (len(whole) - 1)
    assert [piece.last for piece in whole] == [False] * (len(whole) - 1) + [True]
    if "  " not in long:
        assert list(strip_and_cut([long[at : at + 7] for at in range(0, len(long), 7)], 50)) == whole
    assert "".join(cut(long, 50)) == long and max(map(len, cut(long, 50))) <= 50


def write_rows(path, column="text"):
    rows = [{"id": str(number), column: text(5 + number, number)} for number in range(4)]
    kind = path.name.split(".")[1]
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    if kind == "parquet":
        with opener(path, "wb") as stream:
            pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    elif kind == "jsonl":
        with opener(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        with opener(path, "wt", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, ["id", column], delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return [row[column] for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.csv.gz", "a.tsv.xz", "a.parquet.gz"])
def test_every_kind_of_rows(tmp_path, name):
    rows = write_rows(tmp_path / name)
    check_sources([str(tmp_path / name)], field="corpus.sources")
    (source,) = find_sources([str(tmp_path / name)], field="corpus.sources")
    assert list(source.documents()) == rows


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("semicolon.csv", "id;text\n1;w1, w2\n", ["w1, w2"]),
        ("quoted.csv", 'text,id\n"w1, ""w2""\nw3",1\n', ['w1, "w2"\nw3']),
        ("quoted.tsv", 'text\tid\n"w1 ""w2"""\t1\n', ['w1 "w2"']),
        ("signs.tsv", 'text\tid\n"w1" w2\t1\n"w3\t2\n', ['"w1" w2', '"w3']),
        ("blank.csv", "id,text\n1,w1\n\n2,\n3,w3\n", ["w1", "w3"]),
    ],
)
def test_tables_as_people_write_them(tmp_path, name, content, documents):
    (tmp_path / name).write_text(content, encoding="utf-8")
    (source,) = find_sources([str(tmp_path / name)], field="corpus.sources")
    assert list(source.documents()) == documents


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "id,body\n1,x\n", "has no column 'text'; its columns are id, body"),
        ("a.csv", "id,text\n1,a,b\n", "line 2: 3 columns, and the header has 2"),
        ("a.csv", 'id,text\n1,"a\n', "not a row of a table"),
        ("a.jsonl", "[" * 200_000, "nested too deeply"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(Refusal, match=f"^corpus.sources: .*{sentence}"):
        check_sources([str(tmp_path / name)], field="corpus.sources")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_a_long_row_comes_in_the_pieces_of_a_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(formats, "LONGEST", 15)
    (tmp_path / "a.txt").write_text("\n".join(write_rows(tmp_path / name)), encoding="utf-8")
    found = [list(find_sources([str(tmp_path / each)], field="text")[0].documents()) for each in (name, "a.txt")]
    assert found[0] == found[1] and any(isinstance(piece, Piece) for piece in found[0])
    places = [place for place, _ in find_sources([str(tmp_path / "a.txt")], field="text")[0].cells(["text"])]
    assert len(places) == 4, "a line is one row, in however many pieces it is read"


LARGE = "w1 w2 w3 " * 300


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        (
            "a.jsonl",
            json.dumps({"text": "w1"}) + "\n" + json.dumps({"text": LARGE}),
            "line 2: the row has more than 2,000 char",
        ),
        ("a.csv", f"text\nw1\n{LARGE}\n", "line 3: the row has more"),
        (
            "a.csv",
            'text\nw1\n"' + LARGE.replace(" w3", "\n") + '"\n',
            "line 288: not a row of a table .field larger than field limit",
        ),
        ("a.tsv", f"id\ttext\n1\tw1\n2\t{LARGE}\n", "line 3: the row has more"),
        ("a.parquet", [LARGE, LARGE], "row 1: the row has more"),
        ("a.parquet", ["w1", "w2", LARGE], "row 3: the row has more"),
    ],
)
def test_a_row_that_is_too_large_to_be_held_is_refused_by_its_place(tmp_path, monkeypatch, name, content, place):
    monkeypatch.setattr(formats, "LARGEST_ROW", 2_000)
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": content}), path)
    else:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(Refusal, match=f"^corpus.sources: {path}, .*{place}"):
            check_sources([str(path)], field="corpus.sources")
    with pytest.raises(Refusal, match=f"^corpus.sources: {path}, .*{place}"):
        list(formats.read_file(path, column="text", field="corpus.sources"))


@pytest.mark.parametrize(("ending", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_a_file_that_grows_without_end_is_refused(tmp_path, monkeypatch, ending, opener):
    path = tmp_path / f"a.txt{ending}"
    with opener(path, "wb") as stream:
        stream.write(b"a" * 3_000_000)
    list(formats.read_file(path, column="text", field="corpus.sources"))  # small ones may grow as they like
    monkeypatch.setattr(reading, "UNPACKED_FREE", 1 << 20)
    with pytest.raises(Refusal, match=r"^corpus.sources: .* grows more than 200-fold when it is unpacked"):
        list(formats.read_file(path, column="text", field="corpus.sources"))
    with pytest.raises(Refusal, match="grows more than"):
        check_sources([str(path)], field="corpus.sources")


def test_what_is_left_out_of_a_folder_is_named_by_ending(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.md", "b.md", "c.pdf", "e.txt.bz2", "wiki_00"):
        (folder / name).write_text("x", encoding="utf-8")
    (folder / "f.csv").write_text(f"id;text\n1;{text(20)}\n", encoding="utf-8")
    corpus = load(folder, tmp_path / "cache")
    assert corpus.remarks == [
        "5 files of texts left out: 2 .md, 1 .pdf, 1 .txt.bz2, 1 without an ending",
        "f.csv: columns separated by ;",
    ]
