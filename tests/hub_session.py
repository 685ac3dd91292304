"""What diito does with the stand-in for the hub (``hub.py``): each scenario's exit code and words as JSON, for test_hub.py.

A process of its own, since the hub's address is read when its client is imported; one for all, since importing takes long.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import hub as stand_in

HUB = stand_in.Hub()
SCRATCH = Path(tempfile.mkdtemp(prefix="diito-hub-"))
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345678"
WIKITEXT = "Salesforce/wikitext"
CONFIGURATION = "wikitext-103-v1"
_SLEEP = time.sleep


def main() -> None:
    with stand_in.serve(HUB):
        os.environ |= {"HF_ENDPOINT": HUB.address, "HF_HOME": str(SCRATCH / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        time.sleep = lambda seconds: _SLEEP(min(seconds, 0.02))  # between one try and the next
        _fill()
        json.dump(_scenarios(sys.argv[1]), sys.stdout)


def _fill() -> None:
    import datasets
    import tiny

    datasets.disable_progress_bars()
    for name in ("some/teacher", "some/gated", "some/broken", "some/slow", "some/limited", "some/down"):
        HUB.models[name] = Path(tiny.teacher())
    HUB.models["google-bert/bert-base-uncased"] = Path(tiny.teacher(layers=12))
    HUB.gated.add("some/gated")
    splits = ("train", "validation")
    folder = SCRATCH / "wikitext"
    for split in splits:
        rows = {"text": Path(tiny.corpus(1500 if split == "train" else 60)).read_text().splitlines(keepends=True)}
        path = folder / CONFIGURATION / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(path)
    files = "".join(f"  - split: {split}\n    path: {CONFIGURATION}/{split}-*\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {CONFIGURATION}\n  data_files:\n{files}---\n")
    HUB.datasets |= {WIKITEXT: folder, "some/text": folder, "some/gated": folder, "some/downtext": folder}


def distill(*flags: str, recipe: str = "", fault: object = None) -> dict[str, object]:
    """One ``diito distill``: its code, its last words, what is uploaded, the files of its folder."""
    import tiny

    from diito import cli

    HUB.faults[:] = [fault] if fault else []
    HUB.asked.clear()
    HUB.commits.clear()
    output = Path(tempfile.mkdtemp(dir=SCRATCH))
    said = io.StringIO()
    began = time.monotonic()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(["distill", recipe or tiny.recipe_file(), "--output", str(output), *flags])
    text = said.getvalue()
    HUB.faults.clear()
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    leaks = [path for path in files if TOKEN.encode() in (output / path).read_bytes()] + (["screen"] if TOKEN in text else [])
    result = {"code": code, "said": text, "words": [line for line in text.splitlines() if line.startswith("diito: ")]}
    result |= {"files": files, "commits": list(HUB.commits), "asked": list(HUB.asked), "leaks": leaks}
    return result | {"seconds": time.monotonic() - began}


def _scenarios(group: str) -> dict[str, object]:
    steps = ("--training.steps", "2", "--training.save_every", "1")
    if group == "paper":
        paper = str(Path(__file__).parents[1] / "recipes" / "diito-full.yaml")
        small = ("--corpus.length", "32", "--evaluation.length", "32", "--evaluation.blocks", "8", "--corpus.workers", "1")
        return {"paper": distill("--corpus.cache", str(SCRATCH / "cache"), *small, *steps, recipe=paper)}
    teacher, plan = ("--teacher.model", "some/teacher"), ("--plan",)
    text = f"[{{dataset: some/text, config: {CONFIGURATION}, split: train}}]"
    push = (*teacher, *steps, "--training.push_to_hub", "true", "--training.hub_model_id", "someone/student")
    answering, hanging_up = stand_in.answering, stand_in.hanging_up

    def of(kind: str, name: str) -> tuple[str, ...]:
        if kind == "model":
            return ("--teacher.model", name, *plan)
        return ("--corpus.sources", f"[{{dataset: {name}, config: {CONFIGURATION}, split: train}}]", *plan)

    found = {
        "by id": distill(*teacher, "--corpus.sources", text, "--teacher.revision", stand_in.COMMIT, *steps),
        "no revision": distill(*teacher, "--teacher.revision", "elsewhere", *plan),
        "gated model": distill(*of("model", "some/gated")),
        "gated dataset": distill(*of("dataset", "some/gated")),
        "missing model": distill(*of("model", "some/missing")),
        "missing dataset": distill(*of("dataset", "some/missing")),
        "limited": distill(*of("model", "some/limited"), fault=answering(429, at="some/limited")),
        "limited once": distill(*of("model", "some/limited"), fault=answering(429, at="GET .*some/limited", times=1)),
        "down model": distill(*of("model", "some/down"), fault=hanging_up()),
        "down dataset": distill(*of("dataset", "some/downtext"), fault=hanging_up()),
        "broken off": distill(*of("model", "some/broken"), fault=stand_in.broken_off(at="model.safetensors")),
        "slow": distill(*of("model", "some/slow"), fault=stand_in.slow(0.05, at="some/slow")),
        "upload": distill(*push, "--training.hub_always_push", "true"),
        "upload of all": distill(*push, "--training.hub_always_push", "true", "--training.hub_strategy", "all_checkpoints"),
        "nowhere to upload": distill(*push, fault=hanging_up(at="repos/create")),
        "not logged in": distill(*push[:-1], "someone/other", fault=answering(401, at="repos/create")),
        "not allowed": distill(*push[:-1], "someone/other", fault=answering(403, at="repos/create")),
        "down while training": distill(*push, fault=answering(500, at="/commit/")),
        "hung up at the end": distill(*push, fault=hanging_up(at="repos/create", after=2)),
        "full at the end": distill(*push, fault=answering(429, at="/(preupload|commit)/")),
    }
    HUB.uploaded.clear()
    return found


if __name__ == "__main__":
    main()
