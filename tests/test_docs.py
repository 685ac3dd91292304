"""Every Python example of the documentation runs as it stands."""

import json
import re
from pathlib import Path

import pytest

from diito import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs_and_prints_its_losses(
    code: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "loss" in printed and "nan" not in printed


def test_parts_in_a_file_of_the_users_own_run_from_a_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"```\w+ title=(\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(content, encoding="utf-8")
    commands = re.search(r"```bash\n(diito distill my-recipe.*?)```", page, re.DOTALL)
    assert commands is not None
    monkeypatch.chdir(tmp_path)
    for command in commands[1].splitlines():
        assert cli.main(command.split()[1:]) == 0
    printed = capsys.readouterr().out
    assert "causal_huber" in printed and "parameters" in printed
    metrics = (tmp_path / "runs" / "my-run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "causal_huber" in json.loads(metrics.splitlines()[0])


def test_there_is_an_example_of_each_open_seam() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for seam in ("positions=last_tokens", "pairing=neighbour", "losses={"):
        assert seam in text


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
