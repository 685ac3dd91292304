"""The main job, from a recipe to a student on disk.

1. everything that can be refused is refused (:func:`survey`, :func:`load`): sources, teacher, student, alignment, corpus;
2. the plan is shown, and perplexity and interchange accuracy are measured on held-out text;
3. training (:func:`train`), which can be interrupted and resumed;
4. the same measurements again, and the student is saved as an ordinary Hugging Face checkpoint.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from contextlib import nullcontext
from typing import Any

import datasets
import torch.distributed
import transformers
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from diito.evaluation.held_out.classification import predicted_once
from diito.evaluation.held_out.continuations import continuations
from diito.evaluation.held_out.interchange import interchange_accuracy
from diito.evaluation.held_out.metrics import find_metric
from diito.faults import remedy
from diito.files import CannotWrite, write_json, writing
from diito.progress import bars
from diito.recipe import Recipe
from diito.refusal import Refusal
from diito.run.cache import check_cache, use_cache
from diito.run.folder import RunFolder
from diito.run.learned import check_choosable, learned_alignment, show_maps
from diito.run.manifest import make_manifest
from diito.run.model_card import model_card
from diito.run.parts import Parts, as_run, build_trainer, check_reached, load, position_rule, survey
from diito.speed.process import keep_freed_memory
from diito.tables import MISSING
from diito.training.arguments import training_arguments
from diito.training.callbacks import Every, Interruption, LearnedAlignment, MetricsFile
from diito.training.checkpoints import save_projections
from diito.training.progress import Progress
from diito.training.trainer import Evaluation
from diito.training.upload import open_repository, upload_student

_INTERCHANGE = {"iia": ("IIA", ".3f"), "effective_iia": ("effective", ".3f")}
"""What the screen shows of an interchange measurement: title and format."""


def distill(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, plan_only: bool = False) -> int:
    """Run ``recipe``; the exit code: 0 done, 130 or 143 interrupted (resumable), 1 a loss was not finite or another process of
    the run was lost, 2 the disk is full, or the hub did not take the finished student.

    Raises ValueError, in one sentence that names the field, for what the user must change; nothing has been written then.
    """
    _quieten()
    arguments = training_arguments(recipe, output_dir=str(RunFolder(recipe).checkpoints))
    main = arguments.process_index == 0
    surveyed = survey(as_run(recipe, arguments))
    recipe, folder = surveyed.recipe, RunFolder(surveyed.recipe)
    if not plan_only:
        folder.check(resume=resume, overwrite=overwrite)
        if resume and folder.is_finished():
            _say(main, f"the run {folder.path} is finished, so there is nothing to do; its student is in {folder.student}")
            return 0
        if resume:
            folder.newest_checkpoint()
        if arguments.push_to_hub and main:
            open_repository(arguments)
    try:
        parts = load(surveyed, arguments)
        _check_measurable(recipe, parts)
        check_reached(recipe, parts)
        check_cache(parts, arguments)
        _say(main, str(parts.plan))
        if plan_only:
            return 0
        manifest = make_manifest(recipe, parts, processes=arguments.world_size)
        with folder.held() if main else nullcontext():
            if main:  # again, now that no other process can change it
                folder.check(resume=resume, overwrite=overwrite)
            if resume:
                folder.check_manifest(manifest)
            with arguments.main_process_first(desc="run folder"):
                if main and resume:
                    _say_where(folder)
                if main:
                    folder.start(resume=resume, manifest=manifest, plan=parts.plan.as_json())
            try:
                return _run(recipe, parts, folder, arguments)
            except KeyboardInterrupt:  # while measuring, or a second time in a step: what was saved before is whole
                return _stop(main, f"interrupted; continue with: {_resume_command(folder)}", code=130)
    except FloatingPointError as error:
        return _stop(main, f"{error}; training stopped", code=1)
    except CannotWrite as error:
        command = _resume_command(folder) if folder.recipe_file.is_file() else "the same command"
        return _stop(True, f"{error}; {remedy(error)}, then continue with: {command}", code=2)
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        return _stop(True, f"another process of this run has ended; continue with: {_resume_command(folder)}", code=1)


def _run(recipe: Recipe, parts: Parts, folder: RunFolder, arguments: TrainingArguments) -> int:
    """Measure, train, measure, save; the exit code."""
    main = arguments.process_index == 0
    if recipe.speed.keep_memory:
        keep_freed_memory()
    interchange, measure = _measurements(recipe, parts)
    results = _measure_before(folder, parts, measure, main)
    evaluation = measure if recipe.training.evaluate_every else None
    learned = learned_alignment(recipe, parts)
    signal_number = train(recipe, parts, folder, arguments, evaluation, interchange, learned)
    if signal_number is not None:
        return _stop(main, f"stopped and saved; continue with: {_resume_command(folder)}", code=128 + signal_number)
    if main:
        if learned is not None:
            results["alignment"] = learned.as_data()
        _finish(folder, parts, measure, results)
    if main and arguments.push_to_hub and (failure := upload_student(folder.student, arguments)):
        return _stop(main, failure, code=2)
    return 0


def train(
    recipe: Recipe,
    parts: Parts,
    folder: RunFolder,
    arguments: TrainingArguments,
    evaluation: Evaluation | None,
    interchange: Evaluation | None,
    learned: LearnedAlignment | None = None,
) -> int | None:
    """Train ``parts.student``, from the newest checkpoint in ``folder`` where there is one.

    Returns the number of the signal that interrupted it, or None.
    """
    interruption = Interruption()
    trainer = build_trainer(recipe, parts, arguments, evaluation)
    use_cache(trainer, recipe)
    trainer.card = _card(parts, folder.read_results())
    trainer.remove_callback(PrinterCallback)
    progress = Progress(list(trainer.objective.weights), list(_figures(parts)))
    for callback in (interruption, MetricsFile(folder.metrics), progress):
        trainer.add_callback(callback)
    if interchange is not None and recipe.evaluation.interchange_every:
        trainer.add_callback(Every(recipe.evaluation.interchange_every, interchange, trainer.log))
    if learned is not None:
        learned.log = trainer.log
        show_maps(learned, trainer.callback_handler.callbacks)
        trainer.add_callback(learned)
    checkpoint = folder.newest_checkpoint()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        interruption.restore()
    if interruption.signal_number is None and arguments.process_index == 0:
        with writing(folder.path):
            save_projections(trainer.loss_modules().state_dict(), folder.path)
    return interruption.signal_number


def _check_measurable(recipe: Recipe, parts: Parts) -> None:
    """Refuse measurements during training where nothing is held out."""
    for field, every in (
        ("training.eval_steps", recipe.training.evaluate_every),
        ("evaluation.interchange_every", recipe.evaluation.interchange_every),
    ):
        if every and parts.held_out is None:
            raise Refusal(field, "needs held-out text, and there is none; name some in evaluation.sources")
    if recipe.alignment.kind == "learned":
        check_choosable(parts)
    if parts.held_out is not None:
        find_metric(parts.task.metric).check_packages()


def _measurements(recipe: Recipe, parts: Parts) -> tuple[Evaluation | None, Evaluation | None]:
    """Of a student, in fp32: interchange accuracy alone, and perplexity with it; None where there is no held-out text."""
    held_out = parts.held_out
    if held_out is None:
        return None, None
    rule = position_rule(recipe, parts.task, parts.tokenizer)
    metric = find_metric(parts.task.metric)

    def interchange(student: PreTrainedModel) -> dict[str, float]:
        if not metric.is_of_classes:
            return {}
        parts.teacher.to(student.device)
        bases = {}
        if parts.rotation is not None:
            rotation = parts.rotation.to(student.device)
            bases = {"student_bases": rotation.student(), "teacher_bases": rotation.teacher()}
        return interchange_accuracy(
            student,
            parts.teacher,
            parts.alignment,
            held_out,
            rule=rule,
            share=recipe.intervention.share,
            special_ids=parts.task.special_ids(parts.tokenizer),
            **bases,
        )

    def both(student: PreTrainedModel) -> dict[str, float]:
        with predicted_once():
            numbers = {**metric(student, held_out), **metric.with_teacher(student, parts.teacher, held_out)}
        return {**numbers, **interchange(student)}

    return interchange, both


def _measure_before(folder: RunFolder, parts: Parts, measure: Evaluation | None, main: bool) -> dict[str, Any]:
    """The teacher's perplexity and the untrained student's numbers; a resumed run has them already."""
    results = folder.read_results()
    if measure is None or not main or "before" in results:
        return results
    assert parts.held_out is not None
    _say(main, f"measuring on {parts.plan.held_out}")
    with bars():
        results = {
            "teacher": find_metric(parts.task.metric)(parts.teacher, parts.held_out),
            "before": measure(parts.student),
        }
    write_json(folder.results, results)
    _say(main, _table(results, parts))
    return results


def _finish(folder: RunFolder, parts: Parts, measure: Evaluation | None, results: dict[str, Any]) -> None:
    if measure is not None:
        with bars():
            results["after"] = measure(parts.student)
        _say(True, _table(results, parts))
        if said := _continuations(parts):
            results["continuations"] = said
            _say(True, "\n\n".join(["", *map(_side_by_side, said)]))
    results["recipe"] = dataclasses.asdict(parts.plan.recipe)
    results["student"] = folder.save_student(parts.student, parts.tokenizer, _card(parts, results), kept=parts.kept)
    write_json(folder.results, results)  # last: it says that the run is finished
    _say(True, f"student    {folder.student}  ({parts.task.head.__name__}.from_pretrained loads it)")


def _continuations(parts: Parts) -> list[dict[str, str]]:
    """What teacher and student say next in a few held-out texts, where the task has models that go on with a text."""
    count = parts.plan.recipe.evaluation.continuations
    if parts.held_out is None or not parts.task.generates or not count:
        return []
    models = {"teacher": parts.teacher.to(parts.student.device), "student": parts.student}  # type: ignore[arg-type]
    return continuations(models, parts.held_out, parts.tokenizer, count)


def _side_by_side(said: dict[str, str]) -> str:
    return "\n".join(f"{name:<10} {' '.join(text.split())}" for name, text in said.items())


def _card(parts: Parts, results: dict[str, Any]) -> str:
    task = parts.task
    return model_card(
        parts.plan,
        results,
        kind=task.noun,
        pipeline=task.pipeline_tag,
        measured=f"unswapped {task.predicted}",
        figures=find_metric(task.metric).figures,
        head=task.head.__name__,
    )


def _figures(parts: Parts) -> dict[str, tuple[str, str]]:
    """What the screen shows of a measurement: title and format."""
    return {**find_metric(parts.task.metric).figures, **_INTERCHANGE}


def _table(results: dict[str, Any], parts: Parts) -> str:
    """Held-out numbers, a line a model."""
    figures = _figures(parts)
    lines = [f"{'held-out':<18}" + "".join(f"{title:>12}" for title, _ in figures.values())]
    for key, name in (("teacher", "teacher"), ("before", "student before"), ("after", "student after")):
        if key in results:
            numbers = results[key]
            cells = (f"{numbers[each]:{form}}" if each in numbers else MISSING for each, (_, form) in figures.items())
            lines.append(f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def _resume_command(folder: RunFolder) -> str:
    return f"diito distill {folder.recipe_file} --resume"


def _say_where(folder: RunFolder) -> None:
    """Where the resumed run goes on, and why not later."""
    newest = folder.newest_checkpoint()
    for damaged, fault in folder.damaged_checkpoints().items():
        _say(True, f"{damaged.name} is not whole ({fault}) and is passed over")
    _say(True, f"going on from {newest.name if newest else 'the start, as the run has no checkpoint yet'}")


def _is_lost_process(error: BaseException | None) -> bool:
    """Whether an error comes from a peer that is gone: gloo tells it by its message alone."""
    while error is not None:
        if isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return True
        error = error.__cause__
    return False


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
