"""Each guide of the documentation runs from top to bottom, with tiny models and texts in place of those that it names."""

import json
import re
import shlex
from pathlib import Path

import classifiers
import decoders
import pytest
import tiny

from diito import cli

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
_MEASURED = "--limit 8 --length 16"
SHORT = {
    "distill": "--training.max_steps 1 --training.per_device_train_batch_size 4 --corpus.length 16 --corpus.workers 1"
    " --evaluation.length 16 --evaluation.blocks 8",
    "evaluate": _MEASURED,
    "align": _MEASURED,
}
"""Flags that make a command short, by its name."""
_ON_TEXT = f"--corpus.sources [{tiny.corpus()}] --evaluation.sources [{tiny.corpus(20)}]"
OWN = {
    "encoder": f"{_ON_TEXT} --teacher.model {tiny.teacher()} --student.layers 2",
    "reasoning": f"{_ON_TEXT} --teacher.model {tiny.teacher()} --student.layers 2",
    "decoder": f"{_ON_TEXT} --teacher.model {decoders.teacher()} --student.layers 2",
    "classifier": "--student.layers 2",
}
"""Flags of ``distill`` in each guide."""


def stand_ins(folder: Path) -> dict[str, str]:
    """What a guide names, and what is taken for it outside of Python."""
    films = folder / "films.jsonl"
    rows = [{"sentence": f"w{number} w{number % 7}", "label": number % 2} for number in range(40)]
    films.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "embedded:teacher-minilm-mlm": tiny.teacher(),
        "embedded:wikitext-2/valid.txt.gz": tiny.corpus(20),
        "HuggingFaceTB/SmolLM2-135M": decoders.teacher(),
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english": classifiers.teacher(labels=("NEGATIVE", "POSITIVE")),
        "dataset: stanfordnlp/sst2, split: validation": f"path: {films}",
        "dataset: stanfordnlp/sst2": f"path: {films}",
        "examples: 1000": "examples: 20",
    }


@pytest.mark.parametrize("guide", sorted(path.stem for path in GUIDES.glob("*.md")))
def test_a_guide_runs_from_top_to_bottom(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {"__name__": "guide"}
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    ran = 0
    for language, title, code in re.findall(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(code, guide, "exec"), shared)
            continue
        for name, local in stand_ins(tmp_path).items():
            code = code.replace(name, local)
        if title:
            Path(title).write_text(code, encoding="utf-8")
        elif language == "bash":
            ran += sum(run(line, OWN[guide]) for line in code.splitlines())
    assert ran >= 2 and "nan" not in capsys.readouterr().out.split()


def run(line: str, of_distill: str) -> bool:
    """One line of a shell, made short; whether it was a command of diito's."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["diito"]:
        assert words[:2] == ["pip", "install"], line
        return False
    further = f"{SHORT.get(words[1], '')} {of_distill if words[1] == 'distill' else ''}"
    assert cli.main([*words[1:], *shlex.split(further)]) == 0, line
    return True
