"""The training loop: transformers' ``Trainer`` around one :class:`DistillationObjective`.

1. the loader gives rows of the corpus in an order that is a function of (seed, epoch);
2. they are masked on the device, with draws keyed by (seed, micro-batch, rank), and the objective answers with named losses;
3. losses and tokens are summed on the device and reach the host at log steps only, where a non-finite one stops the run;
4. checkpoints hold the student, the optimiser and Trainer's state; they are written aside and renamed when complete.

To resume, nothing is needed but a checkpoint and the same arguments: no draw depends on a state of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from diito.corpus import Corpus, ShuffledSampler, collate
from diito.method.draws import generator
from diito.method.objective import DistillationObjective
from diito.models.student import is_tied
from diito.tasks.masked_lm import Masking
from diito.training.counters import Counters

Evaluation = Callable[[PreTrainedModel], Mapping[str, float]]
"""Measures a student: named numbers."""
STAGING = "_staging"  # hub uploads leave out names that start with an underscore


class DistillationTrainer(Trainer):
    """A ``transformers.Trainer`` that distils.

    ``model``: the objective. ``args``: ``TrainingArguments``; the few fields the method depends on are set here.
    ``train_dataset``: a :class:`Corpus`. ``masking``: makes masked batches of its rows. ``processing_class``: the tokenizer.
    ``draw_sources``: True brings every batch sources drawn from the corpus on their own, instead of in-batch pairs.
    ``evaluation``: called with the student, returns named numbers; used by ``evaluate``. Other arguments are Trainer's.

    Raises FloatingPointError, naming the step and the losses, when a loss is not finite, and OSError when a checkpoint cannot
    be written; the last complete checkpoint stays in both cases.
    """

    def __init__(
        self,
        model: DistillationObjective,
        args: TrainingArguments,
        *,
        train_dataset: Corpus,
        masking: Masking,
        draw_sources: bool = False,
        evaluation: Evaluation | None = None,
        **kwargs: Any,
    ) -> None:
        self.objective = model
        self.masking = masking
        self.draw_sources = draw_sources
        self.evaluation = evaluation
        self._writing_aside = False
        self.sampler = ShuffledSampler(
            len(train_dataset),
            lengths=train_dataset.lengths,
            batch=args.per_device_train_batch_size * args.world_size,
            seed=args.seed,
        )
        kwargs.setdefault("eval_dataset", train_dataset)  # Trainer wants one where it evaluates; ours reads none
        super().__init__(
            model=model,
            args=_with_required(args, model),
            train_dataset=train_dataset,
            data_collator=self._collate,
            **kwargs,
        )
        # Neither Trainer nor FSDP sees the teacher, so it is put in place here.
        model.teacher.to(self.args.device)
        if self.args.bf16:
            model.teacher.to(torch.bfloat16)
        self.add_callback(_EpochOrder(self))
        self._counters = Counters([*model.weights, "loss"], device=self.args.device)
        self._counted_step, self._micro = -1, 0

    # One micro-batch

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; what an interrupted save left behind is removed first."""
        self._counted_step, self._micro = -1, 0
        if self.is_world_process_zero():
            shutil.rmtree(os.path.join(self.args.output_dir, STAGING), ignore_errors=True)
        return super().train(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, forward and backward; counts micro-batches."""
        self._micro = self._micro + 1 if self._counted_step == self.state.global_step else 0
        self._counted_step = self.state.global_step
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mask the rows on the device and compute the named losses; returns the weighted sum."""
        step = self.micro_batches()
        losses = model(self._masked_batch(inputs, step), step=step)
        mask = inputs.get("attention_mask")
        tokens = inputs["input_ids"].numel() if mask is None else mask.sum()
        self._counters.add(losses, tokens, step=self.state.global_step + 1)
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def micro_batches(self) -> int:
        """Micro-batches since the start of the run, those before a resumption included."""
        steps = -(-self._batches_per_epoch // self.args.gradient_accumulation_steps)
        epochs, updates = divmod(self.state.global_step, steps)
        return epochs * self._batches_per_epoch + updates * self.args.gradient_accumulation_steps + self._micro

    def _masked_batch(self, inputs: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        key = (self.args.seed, step, self.args.process_index)
        device = inputs["input_ids"].device
        batch = self.masking(inputs, generator=generator("mask", *key, device=device))
        if self.draw_sources:
            rows = torch.randint(len(self.train_dataset), (len(inputs["input_ids"]),), generator=generator("sources", *key))
            drawn = self._prepare_inputs(self._collate(self.train_dataset.__getitems__(rows.tolist())))
            sources = self.masking(drawn, generator=generator("source mask", *key, device=device))
            batch |= {f"source_{name}": sources[name] for name in ("input_ids", "attention_mask") if name in sources}
        return batch

    def _collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return collate(rows, pad_token_id=self.masking.pad_token_id)

    # Order of the rows

    def get_train_dataloader(self) -> Any:
        """As ``Trainer.get_train_dataloader``; remembers how many micro-batches make an epoch."""
        loader = super().get_train_dataloader()
        self._batches_per_epoch = len(loader)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler

    # Numbers

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's numbers together with every named loss, the tokens seen and tokens/s."""
        if "loss" in logs:
            self._refuse_non_finite_losses()
            logs.update(self._counters.take_means(self.accelerator))
            self.state.num_input_tokens_seen += self._counters.take_tokens(self.accelerator)
            logs["tokens"] = self.state.num_input_tokens_seen
            logs["tokens_per_second"] = self._counters.take_rate()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The ``evaluation`` of the student, logged. Every rank computes the same."""
        if self.evaluation is None:
            raise ValueError("evaluation: give DistillationTrainer an evaluation to evaluate with")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.evaluation(self.student()).items()}
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _refuse_non_finite_losses(self) -> None:
        first = self._counters.first_non_finite(self.accelerator)
        if first:
            step = min(first.values())
            names = ", ".join(name for name, at in first.items() if at == step)
            raise FloatingPointError(f"step {step}: {names} not finite; the last checkpoint before it is kept")

    # Checkpoints

    def student(self) -> PreTrainedModel:
        """The student, out of whatever wraps it."""
        return self.accelerator.unwrap_model(self.model).student

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, STAGING) if self._writing_aside else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside, rename it when it is complete on all ranks, then drop the oldest."""
        self._refuse_non_finite_losses()
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FloatingPointError(f"step {self.state.global_step}: the student's weights are not finite; not saved")
        self.state.num_input_tokens_seen += self._counters.take_tokens(self.accelerator)
        final = self._get_output_dir(trial)
        staging, name = os.path.join(final, STAGING), f"checkpoint-{self.state.global_step}"
        self._writing_aside = True
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self._name_best_checkpoint(final, os.path.join(staging, name))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._put_in_place(os.path.join(staging, name), os.path.join(final, name))
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of them
            shutil.rmtree(staging, ignore_errors=True)
            reason = str(error).splitlines()[0]
            raise OSError(f"{final}: {name} could not be written ({reason}); the checkpoint before it stays") from error
        finally:
            self._writing_aside = False
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(os.path.join(final, name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint once it is in place: the upload goes on while training does, and a rename would stop it."""
        if not self._writing_aside:
            super()._push_from_checkpoint(checkpoint_folder)

    def _name_best_checkpoint(self, final: str, written: str) -> None:
        """The state speaks of where the best checkpoint will be, not of the staging folder."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = os.path.join(final, f"checkpoint-{self.state.best_global_step}")
            self.state.save_to_json(os.path.join(written, "trainer_state.json"))

    def _put_in_place(self, written: str, final: str) -> None:
        if os.path.isdir(final):  # the same step of the same run: what stands there is complete
            shutil.rmtree(written)
        else:
            _sync_folder(written)
            os.replace(written, final)
        os.rmdir(os.path.dirname(written))
        rotate_checkpoints(
            output_dir=os.path.dirname(final),
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


class _EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins; accelerate's wrappers do not reach it."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.sampler.set_epoch(self.trainer.micro_batches() // self.trainer._batches_per_epoch)


def _with_required(args: TrainingArguments, objective: DistillationObjective) -> TrainingArguments:
    """The fields the method depends on, whatever they were set to."""
    args.remove_unused_columns = False
    args.dataloader_drop_last = True  # a partial batch would have other sources and another weight
    args.logging_nan_inf_filter = False  # it would hide a non-finite loss, and synchronise at every micro-batch
    args.ddp_broadcast_buffers = False
    # The head gets no gradient from losses that read hidden states only, nor does a bias that an untied model never reads.
    args.ddp_find_unused_parameters = "logits" not in objective.reads or not is_tied(objective.student)
    args._n_gpu = min(args.n_gpu, 1)  # several devices: torchrun (DataParallel cannot carry named losses)
    return args


def _sync_folder(folder: str) -> None:
    """Bring every file of ``folder`` to the disk, so that a rename after it cannot outlive its contents."""
    for path in [os.path.join(folder, name) for name in os.listdir(folder)] + [folder]:
        if os.path.isfile(path) or path == folder:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
