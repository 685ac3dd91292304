"""The student's way to the hub, of which no failure costs more than the upload itself.

1. :func:`open_repository` makes the repository before any work, so that a hub that cannot be written is known at once;
2. a checkpoint's student, with its tokenizer and card, goes up from a copy while training goes on; a failure is one sentence;
3. :func:`upload_student` sends the finished student, which is in the run's folder whatever happens.

transformers' own way is left, as it pickles the training arguments with the user's token, and uploads that.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from diito.models.failures import HTTPError
from diito.refusal import Refusal
from diito.secrets import redact

ASIDE = "_upload"
_FAILURES = (OSError, HTTPError, HFValidationError, RuntimeError)
"""What keeps an upload from its goal: the hub, the network, the disk; RuntimeErrors are of the client's storage. Anything else
is a fault of the program, and a traceback."""
_ONLY_TO_RESUME = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "checksums.json", "global_step*")


def open_repository(args: TrainingArguments) -> str:
    """Make the repository of a run on the hub where there is none; its id. Raises Refusal where the hub does not let us."""
    name = _name(args)
    try:
        return HfApi().create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True).repo_id
    except _FAILURES as error:
        right = f"to go on without an upload, set it to false, and upload the student later with: hf upload {name} FOLDER"
        raise Refusal("training.push_to_hub", f"the repository {name} cannot be written: {_reason(error)}; {right}") from error


def upload_student(folder: Path, args: TrainingArguments) -> str | None:
    """Upload a finished student; None, or one sentence that says why it is not there and how to send it again."""
    try:
        _upload(folder, open_repository(args), args, "The finished student")
    except (*_FAILURES, Refusal) as error:  # the student is here
        revision = f" --revision {args.hub_revision}" if args.hub_revision else ""
        return (
            f"the student is finished and safe in {folder}, but it is not on the hub ({_reason(error)}); "
            f"upload it with: hf upload {_name(args)} {folder}{revision}"
        )
    return None


class UploadingTrainer(Trainer):
    """Trainer, with uploads that may fail.

    ``card``: the text of the model card that goes up with the student of a checkpoint; empty: none.
    """

    card = ""
    _uploading: Future[None] | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository. Raises Refusal where the hub does not let us."""
        if self.is_world_process_zero():
            self.hub_model_id = open_repository(self.args)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Start to upload a checkpoint's student; one upload at a time (``hub_always_push`` waits for the one before)."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self._uploading is not None and not self._uploading.done() and not self.args.hub_always_push:
            return
        self._finish_current_push()
        self._uploading = HfApi().run_as_future(self._upload_checkpoint, Path(checkpoint_folder), self._copy(checkpoint_folder))

    def _copy(self, checkpoint_folder: str) -> Path | None:
        """A copy, since the checkpoint may be gone before it is sent; None where there is no room for it."""
        aside = Path(self.args.output_dir) / ASIDE
        whole = self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(checkpoint_folder, aside, ignore=None if whole else shutil.ignore_patterns(*_ONLY_TO_RESUME))
            if self.card:
                (aside / "README.md").write_text(redact(self.card), encoding="utf-8")
        except OSError:  # the training needs the room more
            shutil.rmtree(aside, ignore_errors=True)
            return None
        return aside

    def _upload_checkpoint(self, checkpoint: Path, copy: Path | None) -> None:
        try:
            if copy is None:
                raise OSError("there is no room for a copy of it")
            repository, message = self.hub_model_id, f"Training in progress, {checkpoint.name}"
            _upload(copy, repository, self.args, message, ignore_patterns=list(_ONLY_TO_RESUME))
            if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
                last = self.args.hub_strategy == HubStrategy.CHECKPOINT
                within = "last-checkpoint" if last else checkpoint.name
                _upload(copy, repository, self.args, f"{message}, to be resumed", path_in_repo=within)
        except _FAILURES as error:
            sentence = f"{checkpoint.name} is not on the hub ({_reason(error)}); training goes on"
            print(f"diito: {sentence}", file=sys.stderr, flush=True)
        finally:
            if copy is not None:
                shutil.rmtree(copy, ignore_errors=True)

    def _finish_current_push(self) -> None:
        if self._uploading is not None:
            self._uploading.result()
            self._uploading = None


def _name(args: TrainingArguments) -> str:
    return args.hub_model_id or Path(args.output_dir).absolute().name


def _upload(folder: Path, repository: str, args: TrainingArguments, message: str, **options: Any) -> None:
    HfApi().upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message=message,
        token=args.hub_token,
        revision=args.hub_revision,
        **options,
    )


def _reason(error: BaseException) -> str:
    """Why the hub was of no use, in a few words, and what would help."""
    if isinstance(error, Refusal) and error.__cause__ is not None:
        return _reason(error.__cause__)
    code = getattr(error.response, "status_code", 0) if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the hub from being asked"
    if code == 401 or type(error).__name__ == "LocalTokenNotFoundError":
        return "the hub does not know you; log in with `hf auth login` or set HF_TOKEN"
    if code == 403:
        return "the hub does not let you write it; log in as one who may"
    if code == 429 or code >= 500:
        return f"the hub answers {code}; try again later"
    if isinstance(error, (HFValidationError, HfHubHTTPError)) or (isinstance(error, OSError) and error.errno is None):
        return redact(" ".join(str(error).split()))
    if type(error).__module__.startswith("http") or isinstance(error, ConnectionError):  # the client beneath the hub's
        return "the hub cannot be reached; check the network"
    return redact(" ".join(f"{type(error).__name__}: {error}".split()))
