"""What a checkpoint holds, when it appears, and how it is read back.

1. the student is saved as an ordinary Hugging Face checkpoint, beside the optimiser's and Trainer's state; never the teacher;
2. all of it is written into a staging folder and given its name when every rank has finished, then the oldest is dropped;
3. what a failed or interrupted save leaves behind is removed; the checkpoint before it stays.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import rotate_checkpoints

from diito.files import replace_folder

STAGING = "_staging"  # hub uploads leave out names that start with an underscore


class CheckpointTrainer(Trainer):
    """A ``transformers.Trainer`` whose model has a ``student``, of which alone the checkpoints are made.

    Raises OSError when a checkpoint cannot be written, and FloatingPointError rather than save weights that are not finite.
    """

    _writing_aside = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; what an interrupted save left behind is removed first."""
        if self.is_world_process_zero():
            shutil.rmtree(os.path.join(self.args.output_dir, STAGING), ignore_errors=True)
        return super().train(*args, **kwargs)

    def student(self) -> PreTrainedModel:
        """The student, out of whatever wraps it."""
        return self.accelerator.unwrap_model(self.model).student

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
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self._name_best_checkpoint(final, staging / name)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._put_in_place(staging / name, final / name)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of them
            shutil.rmtree(staging, ignore_errors=True)
            reason = str(error).splitlines()[0]
            raise OSError(f"{final}: {name} could not be written ({reason}); the checkpoint before it stays") from error
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
        if final.is_dir():  # the same step of the same run: what stands there is complete
            shutil.rmtree(written)
        else:
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
        if state_dict is not None:
            state_dict = {
                name.removeprefix("student."): value for name, value in state_dict.items() if name.startswith("student.")
            }
        self.student().save_pretrained(output_dir, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)

    # Reading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
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
        saved = type(student).from_pretrained(folder, dtype=student.dtype, local_files_only=True)
        student.load_state_dict(saved.state_dict())
