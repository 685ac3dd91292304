"""What a checkpoint holds, when it appears, and how it is read back.

1. the student is saved as an ordinary Hugging Face checkpoint, or its adapter where that alone is trained, beside the
   optimiser's and Trainer's state and what losses train beside it (``projections.safetensors``); never the teacher;
2. all of it is written into a staging folder and given its name when every rank has finished, then the oldest is dropped;
3. what a failed or interrupted save leaves behind is removed; the checkpoint before it stays;
4. the checksum of every file is written with it, so that a checkpoint that is no longer whole is never read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from diito.files import CannotWrite, checksums, first_difference, read_json, replace_folder, write_json, writing
from diito.models.adapter import has_adapter, load_adapter
from diito.refusal import Refusal
from diito.training.upload import ASIDE, UploadingTrainer

STAGING = "_staging"  # hub uploads leave out names that start with an underscore
CHECKSUMS = "checksums.json"
PROJECTIONS = "projections.safetensors"
"""What losses train beside the student; only where there is any."""
_NEEDED = ("trainer_state.json", "scheduler.pt", "optimizer*", "rng_state*.pth")


def checkpoints_by_step(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, by their steps and never by the clock."""
    numbered = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    return [numbered[number] for number in sorted(filter(str.isdigit, numbered), key=int, reverse=True)]


def checkpoint_fault(folder: Path, *, has_checksums: bool) -> str | None:
    """What is missing from a checkpoint or damaged in it; None: it is as it was written, and training can go on from it.

    ``has_checksums``: False for a run of diito 0.1.0, which wrote none.
    """
    for pattern in () if any(folder.glob("global_step*")) else _NEEDED:  # DeepSpeed has names of its own
        if not any(folder.glob(pattern)):
            return f"{pattern.replace('*', '')} is missing"
    if not (folder / CHECKSUMS).is_file():
        return f"{CHECKSUMS} is missing" if has_checksums else None
    try:
        sums = read_json(folder / CHECKSUMS)
    except ValueError:
        return f"{CHECKSUMS} is damaged"
    return first_difference(folder, sums)


def save_projections(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write what losses have trained beside the student, where there is any: none of it is the student's."""
    if state:
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, folder / PROJECTIONS)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class CheckpointTrainer(UploadingTrainer):
    """A ``transformers.Trainer`` whose model has a ``student``, of which alone the checkpoints are made.

    Raises CannotWrite (an OSError) when a checkpoint cannot be written, FloatingPointError rather than save weights that are
    not finite, and Refusal rather than resume from a checkpoint that is not whole.
    """

    _writing_aside = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_StepsAsAsked())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; what an interrupted save or upload left behind is removed first."""
        if self.is_world_process_zero():
            for left in (STAGING, ASIDE):
                shutil.rmtree(os.path.join(self.args.output_dir, left), ignore_errors=True)
        return super().train(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, but for a checkpoint of the last step, after which Trainer takes one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def student(self) -> PreTrainedModel:
        """The student, out of whatever wraps it."""
        return self.accelerator.unwrap_model(self.model).student

    def loss_modules(self) -> nn.ModuleDict:
        """What losses train beside the student, by their names."""
        modules: nn.ModuleDict = self.accelerator.unwrap_model(self.model).loss_modules
        return modules

    def prepare_to_save(self) -> None:
        """Called before a checkpoint is written; may refuse to."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FloatingPointError(f"step {self.state.global_step}: the student's weights are not finite; not saved")

    # Writing

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, STAGING) if self._writing_aside else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside, rename it when it is complete on all ranks, then drop the oldest."""
        self.prepare_to_save()
        final = Path(self._get_output_dir(trial))
        staging, name = final / STAGING, f"checkpoint-{self.state.global_step}"
        self._writing_aside = True
        try:
            with writing(final / name):
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self._name_best_checkpoint(final, staging / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                with writing(final / name):
                    self._put_in_place(staging / name, final / name)
        except CannotWrite as error:  # a full disk
            shutil.rmtree(staging, ignore_errors=True)
            raise CannotWrite(f"{error}; the checkpoint before it stays") from error
        finally:
            self._writing_aside = False
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final / name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint once it is in place: the upload goes on while training does, and a rename would stop it."""
        if not self._writing_aside:
            super()._push_from_checkpoint(checkpoint_folder)

    def _name_best_checkpoint(self, final: Path, written: Path) -> None:
        """The state speaks of where the best checkpoint will be, not of the staging folder."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(final / f"checkpoint-{self.state.best_global_step}")
            self.state.save_to_json(str(written / "trainer_state.json"))

    def _put_in_place(self, written: Path, final: Path) -> None:
        write_json(written / CHECKSUMS, checksums(written))
        replace_folder(written, final)
        written.parent.rmdir()
        rotate_checkpoints(
            output_dir=str(final.parent),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=False,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The student as a Hugging Face checkpoint with its tokenizer; no pickled arguments."""
        if not self.args.should_save:
            return
        output_dir = output_dir or self.args.output_dir
        projections = self.loss_modules().state_dict()
        if state_dict is not None:
            projections = _below("loss_modules.", state_dict)
            state_dict = _below("student.", state_dict)
        self.student().save_pretrained(output_dir, state_dict=state_dict)
        save_projections(projections, Path(output_dir))
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)

    # Reading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if fault := checkpoint_fault(Path(resume_from_checkpoint), has_checksums=False):
            raise Refusal("resume_from_checkpoint", f"{resume_from_checkpoint} is not whole ({fault}); give another one")
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_student(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_student(self.state.best_model_checkpoint)

    def _load_student(self, folder: str) -> None:
        student = self.student()
        if has_adapter(student):
            load_adapter(student, folder)
        else:
            saved = type(student).from_pretrained(folder, dtype=student.dtype, local_files_only=True)
            student.load_state_dict(saved.state_dict())
        modules = self.loss_modules()
        if modules.state_dict():
            try:
                modules.load_state_dict(load_file(os.path.join(folder, PROJECTIONS)))
            except (OSError, RuntimeError, SafetensorError) as error:
                sentence = f"{folder} is not of a run with these losses ({PROJECTIONS}: {error}); give another one"
                raise Refusal("resume_from_checkpoint", sentence) from error


class _StepsAsAsked(TrainerCallback):
    """Log, save and evaluate as the arguments say: Trainer reads in a checkpoint how often it did so before."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)
