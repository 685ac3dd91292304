"""Column files for a tagger, made by rule of the WikiText-2 that comes with diito (CC BY-SA 3.0): no data of others is needed.

    python scripts/column_files.py data/silver --train 6000 --valid 1000

writes train.txt and valid.txt: a word and its tag a line, blank lines between sentences. The tags are silver, not a person's:

* NAME: a run of capitalised words; the first word of a sentence only with a capitalised second one;
* DATE: a year from 1000 to 2029, or a month with the day of one or two digits beside it;
* NUMBER: any other word of digits.

A tokenizer of lower-cased text, such as that of the embedded teacher, hides the letters that the rule for NAME reads.
"""

from __future__ import annotations

import argparse
import calendar
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from diito.embedded import resolve

MONTHS = set(calendar.month_name[1:])
YEAR, DAY, NUMBER = (re.compile(each) for each in (r"1\d{3}|20[0-2]\d", r"[1-9]|[12]\d|3[01]", r"\d[\d,.]*"))
SHORTEST, LONGEST = 6, 40  # words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train.txt and valid.txt go")
    parser.add_argument("--train", type=int, default=6000, help="sentences of train.txt")
    parser.add_argument("--valid", type=int, default=1000, help="sentences of valid.txt")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", arguments.train), ("valid", arguments.valid)):
        every = list(sentences(split))
        if len(every) < count:
            parser.error(f"--{split}: there are {len(every):,} sentences")
        chosen = [every[index * len(every) // count] for index in range(count)]  # spread over the text
        lines = ["".join(f"{word} {tag}\n" for word, tag in zip(words, tags(words), strict=True)) for words in chosen]
        (arguments.folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")


def sentences(split: str) -> Iterator[list[str]]:
    """The sentences of a split in which every word is known and none is joined by WikiText's own marks."""
    with gzip.open(resolve(f"embedded:wikitext-2/{split}.txt.gz"), "rt", encoding="utf-8") as stream:
        for line in stream:
            for sentence in line.strip().split(" . "):
                words = sentence.split()
                if SHORTEST <= len(words) <= LONGEST and not any("<unk>" in word or word[0] in "=@" for word in words):
                    yield words


def tags(words: list[str]) -> list[str]:
    """The tag of each word, in IOB2."""
    kinds = [_kind(words, index) for index in range(len(words))]
    before = ["O", *kinds]
    return [kind if kind == "O" else f"{'I' if kind == before[index] else 'B'}-{kind}" for index, kind in enumerate(kinds)]


def _kind(words: list[str], index: int) -> str:
    word, beside = words[index], words[max(index - 1, 0) : index + 2]
    if YEAR.fullmatch(word) or word in MONTHS or (DAY.fullmatch(word) and MONTHS & set(beside)):
        return "DATE"
    if NUMBER.fullmatch(word):
        return "NUMBER"
    is_name = word[0].isupper() and word != "I" and (index > 0 or words[1][0].isupper())
    return "NAME" if is_name else "O"


if __name__ == "__main__":
    main()
