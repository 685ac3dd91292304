"""What scripts/ makes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import column_files


def test_the_silver_tags_follow_their_rule():
    sentence = "In 12 June 1994 , Ada Byron met 1,500 people near Rome and I saw 12 of them in 2031"
    expected = {"12 June 1994": "DATE", "Ada Byron": "NAME", "1,500": "NUMBER", "Rome": "NAME", "2031": "NUMBER"}
    tagged = list(zip(sentence.split(), column_files.tags(sentence.split()), strict=True))
    found: dict[str, str] = {}
    for word, tag in tagged:
        if tag.startswith("B-"):
            name, found[word] = word, tag[2:]
        elif tag.startswith("I-"):
            found[f"{name} {word}"] = found.pop(name)
            name = f"{name} {word}"
    assert found == {**expected, "12": "NUMBER"}
    assert column_files.tags(["The", "Tower", "of", "London"]) == ["B-NAME", "I-NAME", "O", "B-NAME"]
    assert column_files.tags(["Towers", "stand", "there"])[0] == "O"
