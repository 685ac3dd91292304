"""Models, text and uploads of a stand-in for the hub (``hub.py``), which answers as it does, refuses, and fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def session(group):
    """The scenarios of ``hub_session.py``, run in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, str(FOLDER / "hub_session.py"), group]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return session("all")


@pytest.mark.soak
@pytest.mark.timeout(600)
class TestTheHub:
    """About forty seconds for the session, and nothing for each test."""

    def test_a_teacher_and_text_by_id_and_revision_become_a_student(self, found):
        run = found["by id"]
        assert run["code"] == 0 and {"tiny/student/model.safetensors", "tiny/results.json"} <= set(run["files"])

    @pytest.mark.parametrize(
        ("scenario", "words"),
        [
            ("no revision", ["teacher.model", "no such revision"]),
            ("gated model", ["teacher.model", "hf auth login"]),
            ("gated dataset", ["corpus.sources", "gated"]),
            ("missing model", ["teacher.model", "the hub has none of this name"]),
            ("missing dataset", ["corpus.sources", "doesn't exist"]),
            ("limited", ["teacher.model", "429", "later"]),
            ("down model", ["teacher.model", "cannot be reached"]),
            ("down dataset", ["corpus.sources", "cannot be reached"]),
            ("nowhere to upload", ["training.push_to_hub", "cannot be reached", "hf upload someone/student"]),
            ("not logged in", ["training.push_to_hub", "hf auth login"]),
            ("not allowed", ["training.push_to_hub", "does not let you"]),
        ],
    )
    def test_what_stands_against_it_is_one_sentence_before_any_work(self, found, scenario, words):
        run = found[scenario]
        assert run["code"] == 2 and len(run["words"]) == 1 and not run["files"]
        assert all(word in run["words"][0] for word in words)

    @pytest.mark.parametrize("scenario", ["limited once", "broken off", "slow"])
    def test_what_passes_is_waited_for(self, found, scenario):
        assert found[scenario]["code"] == 0 and not found[scenario]["words"]

    def test_student_and_card_go_up_while_training_and_at_the_end(self, found):
        messages = [message for _, message, _ in found["upload"]["commits"]]
        steps = [f"Training in progress, checkpoint-{step}" for step in (1, 2)]
        assert found["upload"]["code"] == 0 and messages == [*steps, "The finished student"]
        assert all(
            {"README.md", "model.safetensors", "tokenizer.json"} <= set(files) for *_, files in found["upload"]["commits"]
        )
        assert not any("optimizer" in name or "args" in name for *_, files in found["upload"]["commits"] for name in files)
        resumable = [files for _, message, files in found["upload of all"]["commits"] if message.endswith("to be resumed")]
        assert ["checkpoint-1/optimizer.pt" in files for files in resumable] == [True, False]

    @pytest.mark.parametrize("scenario", ["down while training", "hung up at the end", "full at the end"])
    def test_a_finished_student_is_never_lost_to_an_upload(self, found, scenario):
        run = found[scenario]
        assert run["code"] == 2 and {"tiny/student/model.safetensors", "tiny/results.json"} <= set(run["files"])
        last = run["words"][-1]
        assert "is finished and safe in" in last and "hf upload someone/student" in last
        assert all("training goes on" in words for words in run["words"][:-1])

    def test_no_token_is_left_and_no_pickle_of_the_arguments(self, found):
        for run in found.values():
            assert not run["leaks"]
            assert not [name for name in run["files"] if name.endswith("training_args.bin") or "_upload" in name]


@pytest.mark.soak
def test_the_papers_recipe_runs_from_the_hub():
    run = session("paper")["paper"]
    assert run["code"] == 0 and "12 layers" in run["said"] and "diito-full/student/model.safetensors" in run["files"]
