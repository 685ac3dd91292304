"""The training loop: transformers' ``Trainer`` around one :class:`DistillationObjective`.

1. the loader gives rows of the corpus in an order that is a function of (seed, epoch);
2. they are masked on the device, with draws keyed by (seed, micro-batch, rank), and the objective answers with named losses;
3. losses and tokens are summed on the device and reach the host at log steps only, where a non-finite one stops the run;
4. checkpoints hold the student, the optimiser and Trainer's state (``checkpoints``).

To resume, nothing is needed but a checkpoint and the same arguments: no draw depends on a state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainingArguments

from diito.corpus import ShuffledSampler, collate
from diito.method.draws import generator
from diito.method.objective import DistillationObjective
from diito.models.answers import predicts_next
from diito.models.padding import real_positions
from diito.recipe import MaskingSection
from diito.refusal import Refusal
from diito.tasks.causal_lm import CausalLM
from diito.tasks.masked_lm import Masking
from diito.tasks.task import Batching
from diito.training.arguments import require
from diito.training.callbacks import WeightFactors
from diito.training.checkpoints import CheckpointTrainer
from diito.training.counters import Counters
from diito.training.placement import place_teacher
from diito.training.rows import as_rows

Evaluation = Callable[[PreTrainedModel], Mapping[str, float]]
"""Measures a student: named numbers."""


class DistillationTrainer(CheckpointTrainer):
    """A ``transformers.Trainer`` that distils.

    ``model``: the objective. ``args``: ``TrainingArguments``; the few fields the method depends on are set here.
    ``train_dataset``: a ``datasets.Dataset`` or a map-style dataset of torch, whose rows have ``input_ids`` (lists of any
    length) and optionally ``attention_mask``; other columns are ignored. Or a :class:`~diito.corpus.Corpus`.
    ``processing_class``: the tokenizer. ``batching``: makes batches of the rows (``diito.tasks.task.Batching``); None
    predicts the next tokens with a causal language model, and else masks 15 % of the tokens of each row, each as likely as
    another, with the tokenizer's own mask token. ``masking``: its
    name in 0.1.0.
    ``draw_sources``: True brings every batch sources drawn from the dataset on their own, instead of in-batch pairs.
    ``evaluation``: called with the student, returns named numbers; used by ``evaluate``. Other arguments are Trainer's.

    Rows are drawn in an order of (seed, epoch), those of a micro-batch similarly long. A partial micro-batch is dropped.

    Raises Refusal (a ValueError) for a dataset or arguments that cannot be trained with; FloatingPointError, naming the step
    and the losses, when a loss is not finite, and OSError when a checkpoint cannot be written; the last complete checkpoint
    stays in both cases.
    """

    def __init__(
        self,
        model: DistillationObjective,
        args: TrainingArguments,
        *,
        train_dataset: Any,
        batching: Batching | None = None,
        masking: Batching | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        draw_sources: bool = False,
        evaluation: Evaluation | None = None,
        **kwargs: Any,
    ) -> None:
        self.objective = model
        self.batching = batching or masking or _default_batching(processing_class, model)
        rows = as_rows(train_dataset, columns=getattr(self.batching, "columns", ()))
        batch = args.per_device_train_batch_size * args.world_size
        if len(rows) < batch:
            raise Refusal("train_dataset", f"{len(rows)} rows are fewer than one micro-batch of {batch}; give more rows")
        if rows.lengths is not None and self.batching.pad_token_id is None:
            raise Refusal("processing_class", "rows of different lengths need a padding token, and the tokenizer has none")
        self.draw_sources = draw_sources
        self.evaluation = evaluation
        self.sampler = ShuffledSampler(len(rows), lengths=rows.lengths, batch=batch, seed=args.seed)
        kwargs.setdefault("eval_dataset", rows)  # Trainer wants one where it evaluates; ours reads none
        super().__init__(
            model=model,
            args=require(args, model),
            train_dataset=rows,
            data_collator=self._collate,
            processing_class=processing_class,
            **kwargs,
        )
        place_teacher(model.teacher, self.args)
        self.add_callback(_EpochOrder(self))
        if model.balance is not None:
            self.add_callback(WeightFactors())
        changed = ["changed"] if model.control != "none" and model.has_counterfactual else []
        self._counters = Counters([*model.weights, "loss", *changed], device=self.args.device)
        self._counted_step, self._micro = -1, 0

    # One micro-batch

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``."""
        self._counted_step, self._micro = -1, 0
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
        progress = {"progress": self.state.global_step / self.state.max_steps} if self.objective.has_schedules else {}
        losses = model(self.batch(inputs, step), step=step, **progress)
        refuse_unreached(losses)
        is_padded = "attention_mask" in inputs or "documents" in inputs
        tokens = real_positions(inputs).sum() if is_padded else inputs["input_ids"].numel()
        changed = self.objective.changed
        self._counters.add(
            losses if changed is None else {**losses, "changed": changed}, tokens, step=self.state.global_step + 1
        )
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def micro_batches(self) -> int:
        """Micro-batches since the start of the run, those before a resumption included."""
        steps = -(-self._batches_per_epoch // self.args.gradient_accumulation_steps)
        epochs, updates = divmod(self.state.global_step, steps)
        return epochs * self._batches_per_epoch + updates * self.args.gradient_accumulation_steps + self._micro

    def batch(self, inputs: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The rows of micro-batch ``step`` with what is predicted in them, and sources where they are drawn."""
        key = (self.args.seed, step, self.args.process_index)
        device = inputs["input_ids"].device
        batch = self.batching.batch(inputs, generator=generator("mask", *key, device=device))
        if self.draw_sources:
            count = self.objective.swaps.sources_per_row * len(inputs["input_ids"])
            rows = torch.randint(len(self.train_dataset), (count,), generator=generator("sources", *key))
            drawn = self._prepare_inputs(self._collate(self.train_dataset.__getitems__(rows.tolist())))
            sources = self.batching.batch(drawn, generator=generator("source mask", *key, device=device))
            batch |= {f"source_{name}": value for name, value in sources.items() if name not in ("slots", "labels")}
        return batch

    def _collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return collate(rows, pad_token_id=self.batching.pad_token_id)

    # Order of the rows

    def get_train_dataloader(self) -> Any:
        """As ``Trainer.get_train_dataloader``; remembers how many micro-batches make an epoch."""
        loader = super().get_train_dataloader()
        self._batches_per_epoch = len(loader)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler

    # Numbers

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Trainer's numbers together with every named loss, the tokens seen and tokens/s."""
        if "loss" in logs:
            self._refuse_non_finite_losses()
            logs.update(self._counters.take_means(self.accelerator))
            self.state.num_input_tokens_seen += self._counters.take_tokens(self.accelerator)
            logs["tokens"] = self.state.num_input_tokens_seen
            logs["tokens_per_second"] = self._counters.take_rate()
            if self.objective.balance is not None:
                logs.update({f"weight_{name}": weight for name, weight in self.objective.balance.weights.items()})
        super().log(logs, start_time)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The ``evaluation`` of the student, logged. Every rank computes the same."""
        if self.evaluation is None:
            raise Refusal("evaluation", "give DistillationTrainer an evaluation to evaluate with")
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

    def prepare_to_save(self) -> None:
        """Refuse losses and weights that are not finite; put the tokens seen so far into the state that is saved."""
        self._refuse_non_finite_losses()
        super().prepare_to_save()
        self.state.num_input_tokens_seen += self._counters.take_tokens(self.accelerator)


def refuse_unreached(losses: Mapping[str, Tensor]) -> None:
    """Refuse losses of which none depends on anything that is trained."""
    if not losses["loss"].requires_grad:
        sentence = "none of them depends on what of the student is trained; give another a weight, or train more of it"
        raise Refusal("objective.weights", sentence)


class _EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins; accelerate's wrappers do not reach it."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.sampler.set_epoch(self.trainer.micro_batches() // self.trainer._batches_per_epoch)


def _default_batching(tokenizer: PreTrainedTokenizerBase | None, objective: DistillationObjective) -> Batching:
    """Of a causal language model the next tokens; else 15 % of the tokens of a row, each as likely as another."""
    if tokenizer is None:
        raise Refusal("processing_class", "give the tokenizer, so that its special tokens are known, or a batching")
    vocabulary = objective.student.config.get_text_config().vocab_size
    vocabulary = min(vocabulary, objective.words or vocabulary)  # a word that is put in must be one of both models
    if predicts_next(objective.student):
        return CausalLM().batching(tokenizer=tokenizer, vocab_size=vocabulary)
    if tokenizer.mask_token_id is None:
        raise Refusal(
            "processing_class", f"{type(tokenizer).__name__} has no mask token; give a batching, or another tokenizer"
        )
    section = MaskingSection(rate=0.15, smoothing=0.0)
    return Masking.for_tokenizer(section, tokenizer=tokenizer, vocab_size=vocabulary, token_counts=None)
