"""Every Python example of the documentation runs as it stands; links lead somewhere; the tree is true."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from diito import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))]
TREE = ROOT / "docs" / "architecture.md"
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
    for page in LINKED:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def listed_files() -> list[str]:
    """The modules in the page's fenced tree, one a line, with its path from the root or indented under its folder."""
    fences = re.findall(r"```[a-z]*\n(.*?)```", TREE.read_text(encoding="utf-8"), flags=re.DOTALL)
    trees = [fence for fence in fences if "src/diito/" in fence and "objective.py" in fence]
    assert len(trees) == 1, "the page needs one fenced block that lists src/diito/*.py, one file a line"
    listed, folders = [], [(-1, "")]
    for line in trees[0].splitlines():
        if not line.strip():
            continue
        indent, name = len(line) - len(line.lstrip(" │├└─")), line.lstrip(" │├└─").split()[0]
        while folders[-1][0] >= indent:
            folders.pop()
        path = folders[-1][1] + name
        if name.endswith("/"):
            folders.append((indent, path))
        elif path.startswith("src/diito/") and path.endswith(".py"):
            assert len(line.split()) > 1, f"{path}: say what it holds"
            listed.append(path)
    return listed


def test_the_tree_is_the_folder() -> None:
    listed = listed_files()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/diito"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    there = {path for path in tracked if (ROOT / path).is_file()}  # without git: an unpacked archive
    there = there or {str(path.relative_to(ROOT)) for path in (ROOT / "src" / "diito").rglob("*.py")}
    modules = {path for path in there if path.endswith(".py")}
    # A package may be listed by its modules alone.
    assert {path for path in listed if not path.endswith("__init__.py")} == {
        path for path in modules if not path.endswith("__init__.py")
    }
    assert len(listed) == len(set(listed))
