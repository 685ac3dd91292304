"""The main job, from a recipe to a student on disk.

1. everything that can be refused is refused (:func:`prepare`): sources, run folder, teacher, student, alignment, corpus;
2. the plan is shown, and perplexity and interchange accuracy are measured on held-out text;
3. training (:func:`train`), which can be interrupted and resumed;
4. the same measurements again, and the student is saved as an ordinary Hugging Face checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from diito import positions as position_rules
from diito.alignment import AlignedPair, Alignment
from diito.callbacks import Interruption, MetricsFile, Progress
from diito.corpus import Corpus, load_corpus
from diito.corpus.sources import check_sources
from diito.draws import host_random
from diito.evaluation.held_out import HeldOut
from diito.evaluation.interchange import interchange_accuracy
from diito.evaluation.perplexity import perplexity
from diito.layered import Layered, family_of
from diito.masking import Masking
from diito.model_card import model_card
from diito.objective import DistillationObjective
from diito.plan import Plan
from diito.recipe import AlignmentSection, CorpusSection, MaskingSection, Recipe
from diito.run_folder import RunFolder, write_json
from diito.student import build_student, student_layers
from diito.teacher import load_config, load_teacher, load_tokenizer
from diito.trainer import DistillationTrainer

Measure = Callable[[PreTrainedModel], dict[str, float]]


@dataclass(frozen=True)
class Parts:
    """What a recipe names, loaded and checked."""

    tokenizer: PreTrainedTokenizerBase
    teacher: PreTrainedModel
    student: PreTrainedModel
    alignment: Alignment
    corpus: Corpus
    held_out: HeldOut | None
    plan: Plan


def distill(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, plan_only: bool = False) -> int:
    """Run ``recipe``; the exit code: 0 done, 130 or 143 interrupted (resumable), 1 a loss was not finite, 2 disk full.

    Raises ValueError, in one sentence that names the field, for what the user must change; nothing has been written then.
    """
    _quieten()
    folder = RunFolder(recipe)
    arguments = training_arguments(recipe, folder)
    if not plan_only:
        folder.check(resume=resume, overwrite=overwrite)
    parts = prepare(recipe, arguments)
    main = arguments.process_index == 0
    _say(main, str(parts.plan))
    if plan_only:
        return 0
    with arguments.main_process_first(desc="run folder"):
        if main:
            folder.start(resume=resume)
    measure = _measurement(recipe, parts)
    try:
        results = _measure_before(folder, parts, measure, main)
        signal_number = train(recipe, parts, folder, arguments, measure if recipe.training.evaluate_every else None)
        if main and signal_number is None:
            _finish(folder, parts, measure, results)
    except FloatingPointError as error:
        return _stop(main, f"{error}; training stopped", code=1)
    except OSError as error:
        return _stop(
            main, f"{error}; free space or give another --output, then continue with {_resume_command(folder)}", code=2
        )
    if signal_number is not None:
        return _stop(main, f"stopped and saved; continue with: {_resume_command(folder)}", code=128 + signal_number)
    return 0


def prepare(recipe: Recipe, arguments: TrainingArguments) -> Parts:
    """Load what ``recipe`` names. Cheap checks come first, then the models, then the corpus. Raises ValueError."""
    check_sources(recipe.corpus.sources, field="corpus.sources")
    if recipe.evaluation.sources:
        check_sources(recipe.evaluation.sources, field="evaluation.sources")
    config = load_config(recipe.teacher)
    chosen = student_layers(recipe.student.layers, config.num_hidden_layers)
    alignment = build_alignment(recipe, teacher_layers=config.num_hidden_layers, student_layers=len(chosen))
    width = config.hidden_size
    alignment.check(
        teacher_layers=config.num_hidden_layers, student_layers=len(chosen), teacher_width=width, student_width=width
    )
    _check_lengths(recipe, config)
    tokenizer = load_tokenizer(recipe.teacher, config)
    teacher = load_teacher(recipe.teacher)
    student = build_student(teacher, chosen, dropout=recipe.student.dropout)
    with arguments.main_process_first(desc="corpus"):
        corpus = load_corpus(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed)
        held_out = _held_out(recipe, tokenizer, config.vocab_size)
    plan = Plan(recipe, teacher, student, chosen, alignment, corpus, arguments.world_size)
    if plan.steps_per_epoch == 0:
        raise ValueError(
            f"training.batch: the corpus has {len(corpus)} sequences, fewer than one micro-batch of {recipe.training.batch} on "
            f"{arguments.world_size} process(es); give more text or a smaller batch"
        )
    return Parts(tokenizer, teacher, student, alignment, corpus, held_out, plan)


def train(
    recipe: Recipe, parts: Parts, folder: RunFolder, arguments: TrainingArguments, evaluation: Measure | None
) -> int | None:
    """Train ``parts.student``, from the newest checkpoint in ``folder`` where there is one.

    Returns the number of the signal that interrupted it, or None. A ValueError from in here is a fault of the program, so it
    is raised as a RuntimeError.
    """
    interruption = Interruption()
    trainer = build_trainer(recipe, parts, arguments, evaluation)
    trainer.remove_callback(PrinterCallback)
    for callback in (interruption, MetricsFile(str(folder.metrics)), Progress(list(trainer.objective.weights))):
        trainer.add_callback(callback)
    checkpoint = folder.newest_checkpoint()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except ValueError as error:
        raise RuntimeError("training failed") from error
    finally:
        interruption.restore()
    return interruption.signal_number


def build_trainer(
    recipe: Recipe, parts: Parts, arguments: TrainingArguments, evaluation: Measure | None = None
) -> DistillationTrainer:
    """The trainer of ``recipe``, with a teacher of its own where training holds it in another precision."""
    teacher = copy.deepcopy(parts.teacher) if arguments.bf16 else parts.teacher
    intervention, objective = recipe.intervention, recipe.objective
    module = DistillationObjective(
        parts.student,
        teacher,
        parts.alignment,
        weights=dataclasses.asdict(objective.weights),
        temperature=objective.temperature,
        tokens=objective.tokens,
        positions=intervention.positions,
        share=intervention.share,
        specials=intervention.specials,
        special_ids=_special_ids(parts.tokenizer),
        source_positions=intervention.source_positions,
        control=intervention.control,
        seed=recipe.seed,
    )
    if recipe.training.compile:
        for model in (parts.student, teacher):
            for layer in Layered(model).layers:
                layer.compile(fullgraph=True)
    masking = Masking.for_tokenizer(
        recipe.masking,
        tokenizer=parts.tokenizer,
        vocab_size=teacher.config.vocab_size,
        token_counts=parts.corpus.token_counts,
    )
    return DistillationTrainer(
        module,
        arguments,
        train_dataset=parts.corpus,
        masking=masking,
        draw_sources=intervention.pairing == "independent" and module.has_counterfactual,
        evaluation=evaluation,
        processing_class=parts.tokenizer,
    )


def training_arguments(recipe: Recipe, folder: RunFolder) -> TrainingArguments:
    """Trainer's arguments for a recipe. Also joins the process group under torchrun.

    Raises ValueError naming ``training.arguments`` for a field that TrainingArguments does not have or refuses.
    """
    training = recipe.training
    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    for name in training.arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see transformers.TrainingArguments"
            raise ValueError(f"training.arguments.{name}: no such argument{hint}")
    _check_loggers(training.report_to)
    has_accelerator = training.device == "auto" and torch.accelerator.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "run_name": recipe.name,
        "seed": recipe.seed,
        "num_train_epochs": training.epochs,
        "max_steps": training.steps or -1,
        "per_device_train_batch_size": training.batch,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.learning_rate,
        "adam_beta1": training.betas[0],
        "adam_beta2": training.betas[1],
        "adam_epsilon": training.epsilon,
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup,
        "max_grad_norm": training.clip,
        "bf16": training.precision == "bf16",
        "use_cpu": not has_accelerator,
        "dataloader_pin_memory": has_accelerator,
        "logging_steps": training.log_every,
        "logging_first_step": True,
        "save_steps": training.save_every,
        "save_total_limit": training.keep,
        "eval_strategy": "steps" if training.evaluate_every else "no",
        "eval_steps": training.evaluate_every or None,
        "report_to": training.report_to or "none",
        "disable_tqdm": True,
    }
    try:
        return TrainingArguments(**{**ours, **training.arguments})
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"training.arguments: {error}") from error


def _check_loggers(names: list[str]) -> None:
    """Trainer would say so only when it is made, after the measurements."""
    installed = get_available_reporting_integrations() if names else []
    for name in names:
        if name not in [*installed, "all", "none"]:
            raise ValueError(
                f"training.report_to: {name!r} is not installed, or no logger of transformers; "
                f"installed: {', '.join(installed) or 'none'}"
            )


def build_alignment(recipe: Recipe, *, teacher_layers: int, student_layers: int) -> Alignment:
    """Π as the section ``alignment`` describes it. Raises ValueError where the models are too shallow for it."""
    section = recipe.alignment
    alignment = _named_alignment(section, teacher_layers, student_layers)
    if not section.top:
        alignment = alignment.without_top(student_layers)
    if section.shuffled:
        alignment = alignment.shuffled(teacher_layers, host_random("shuffled alignment", recipe.seed))
    return alignment


def _named_alignment(section: AlignmentSection, teacher_layers: int, student_layers: int) -> Alignment:
    if section.kind != "custom":
        make = getattr(Alignment, section.kind.replace("-", "_"))
        return make(teacher_layers=teacher_layers, student_layers=student_layers)
    if section.file is not None:
        return Alignment.from_nm(section.file)
    return Alignment(
        AlignedPair(pair.student, pair.teacher, pair.student_dimensions, pair.teacher_dimensions)
        for pair in section.pairs or ()
    )


def _check_lengths(recipe: Recipe, config: Any) -> None:
    longest = family_of(config.model_type).longest(config)
    for field, length in (("corpus.length", recipe.corpus.length), ("evaluation.length", recipe.evaluation.length)):
        if length > longest:
            raise ValueError(f"{field}: {length} tokens, but the teacher has positions for {longest}; give at most {longest}")


def _held_out(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> HeldOut | None:
    evaluation = recipe.evaluation
    if not evaluation.sources:
        return None
    section = CorpusSection(
        sources=evaluation.sources,
        length=evaluation.length,
        workers=recipe.corpus.workers,
        cache=recipe.corpus.cache,
    )
    corpus = load_corpus(section, tokenizer=tokenizer, seed=recipe.seed, field="evaluation")
    uniform = MaskingSection(rate=0.15, smoothing=0.0)  # the paper's measure, whatever training masks
    masking = Masking.for_tokenizer(uniform, tokenizer=tokenizer, vocab_size=vocab_size, token_counts=None)
    return HeldOut(corpus, masking, recipe.seed, evaluation.blocks, evaluation.batch)


def _measurement(recipe: Recipe, parts: Parts) -> Measure | None:
    """Perplexity and interchange accuracy of a student, both in fp32."""
    held_out = parts.held_out
    if held_out is None:
        return None

    def measure(student: PreTrainedModel) -> dict[str, float]:
        parts.teacher.to(student.device)
        accuracy = interchange_accuracy(
            student,
            parts.teacher,
            parts.alignment,
            held_out,
            rule=position_rules.RULES[recipe.intervention.positions],
            share=recipe.intervention.share,
            special_ids=_special_ids(parts.tokenizer),
        )
        return {"perplexity": perplexity(student, held_out)["perplexity"], **accuracy}

    return measure


def _measure_before(folder: RunFolder, parts: Parts, measure: Measure | None, main: bool) -> dict[str, Any]:
    """The teacher's perplexity and the untrained student's numbers; a resumed run has them already."""
    results = folder.read_results()
    if measure is None or not main or "before" in results:
        return results
    assert parts.held_out is not None
    _say(
        main,
        f"measuring on {len(parts.held_out.examples)} held-out blocks of {parts.plan.recipe.evaluation.length} tokens",
    )
    results = {
        "teacher": {"perplexity": perplexity(parts.teacher, parts.held_out)["perplexity"]},
        "before": measure(parts.student),
    }
    write_json(folder.results, results)
    _say(main, _table(results))
    return results


def _finish(folder: RunFolder, parts: Parts, measure: Measure | None, results: dict[str, Any]) -> None:
    if measure is not None:
        results["after"] = measure(parts.student)
        _say(True, _table(results))
    results["recipe"] = dataclasses.asdict(parts.plan.recipe)
    write_json(folder.results, results)
    folder.save_student(parts.student, parts.tokenizer, model_card(parts.plan, results))
    _say(True, f"student    {folder.student}  (AutoModelForMaskedLM.from_pretrained loads it)")


def _table(results: dict[str, Any]) -> str:
    """Held-out numbers, a line a model."""
    lines = [f"{'held-out':<18}{'perplexity':>12}{'IIA':>9}{'effective':>11}"]
    for key, name in (("teacher", "teacher"), ("before", "student before"), ("after", "student after")):
        if key in results:
            numbers = results[key]
            accuracies = [f"{numbers[each]:.3f}" if each in numbers else "" for each in ("iia", "effective_iia")]
            lines.append(f"{name:<18}{numbers['perplexity']:>12.2f}{accuracies[0]:>9}{accuracies[1]:>11}")
    return "\n".join(lines)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]


def _resume_command(folder: RunFolder) -> str:
    return f"diito distill {folder.recipe_file} --resume"


def _say(main: bool, text: str) -> None:
    if main:
        print(text, flush=True)


def _stop(main: bool, sentence: str, *, code: int) -> int:
    if main:
        print(f"diito: {sentence}", file=sys.stderr, flush=True)
    return code


def _quieten() -> None:
    """The screen is ours; warnings stay, but for one about an argument that Trainer passes on and nothing here can spell
    differently."""
    warnings.filterwarnings("ignore", message=".broadcast_buffers. is deprecated", category=FutureWarning)
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
