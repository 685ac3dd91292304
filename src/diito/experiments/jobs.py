"""Jobs: the distillations and evaluations of a grid, each in a folder named by all that decides its result.

A job is known by its *identity*: for a distillation the recipe without what cannot change the student, digests of the
teacher's weights and of the tokenised corpus, and a number that is raised when a change of the code changes results; for an
evaluation its settings, digests of its data, and the hash of the student's own job. So a job that is finished is never run
again, whichever grid asks for it, and a changed recipe is a new job.

Making the jobs loads every model and corpus once, so everything that can be refused is refused before any work.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diito.evaluation.kinds import find, refusals_under
from diito.experiments.expansion import Distillation, Evaluation
from diito.experiments.grid import Reference, Resources
from diito.experiments.preparations import Preparation, resolved
from diito.method.alignment_files import build_alignment
from diito.models import load as models
from diito.models.load import ModelSource
from diito.models.teacher import load_config
from diito.recipe import Recipe
from diito.refusal import Refusal, Refusals, refusals_of
from diito.run.manifest import VERSIONS, fixed_fields, own_parts, student_contents
from diito.run.parts import prepare
from diito.run.students import sizes_of_student
from diito.tasks import find_task
from diito.training.arguments import training_arguments

PREPARATIONS = 1
"""Part of the names of finished preparations: raise it when a change of the code changes what they make."""


@dataclass(frozen=True)
class Numbers:
    """What a distillation is going to do."""

    steps: int
    tokens: float
    flops: float
    """Of matrix products."""


@dataclass(frozen=True)
class Job:
    """One distillation or evaluation, and what names its folder."""

    planned: Distillation | Evaluation | Preparation
    identity: dict[str, Any]
    student: str | None = None
    """Of an evaluation: the hash of the distillation that makes the student; None for a reference."""
    numbers: Numbers | None = None
    """Of a distillation."""
    before: str | None = None
    """Of a preparation: the hash of the one of its seed that comes before it."""

    @property
    def waits_for(self) -> str | None:
        """The hash of the job that must be done first."""
        return self.student or self.before

    @functools.cached_property
    def hash(self) -> str:
        """The name of the folder."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def kind(self) -> str:
        """``distil``, ``prepare``, or the kind of evaluation."""
        return str(self.identity["kind"])


def make_preparations(planned: Sequence[Preparation]) -> list[Job]:
    """The jobs of preparations, those of a seed one after another. What names a folder is the command, in which the hashes of
    those that it builds on stand for their folders."""
    jobs: list[Job] = []
    hashes: dict[int, dict[str, str]] = {}
    for each in planned:
        earlier = hashes.setdefault(each.seed, {})
        words = resolved(each, earlier, output="OUTPUT")
        identity = {"kind": "prepare", "code": PREPARATIONS, "command": words}
        jobs.append(Job(each, identity, before=next(reversed(earlier.values()), None)))
        earlier[each.name] = jobs[-1].hash
    return jobs


def make_jobs(students: Sequence[Distillation], measurements: Sequence[Evaluation], *, resources: Resources) -> list[Job]:
    """The jobs, each student followed by its evaluations. Two that would give the same have the same hash.

    Raises ValueError, naming the condition, for what the user must change.
    """
    maker = _Maker(resources)
    jobs: list[Job] = []
    references = {each.of.name: each.of for each in measurements if isinstance(each.of, Reference)}
    measured: list[Distillation | Reference] = [*references.values(), *students]
    for of in measured:
        try:
            student = maker.distillation(of) if isinstance(of, Distillation) else None
            jobs += [student] if student else []
            jobs += [maker.evaluation(each, student) for each in measurements if each.of is of]
        except (Refusal, Refusals) as error:
            name = of.condition.name if isinstance(of, Distillation) else of.name
            raise Refusals([Refusal(name, str(each)) for each in refusals_of(error)]) from error
    return jobs


class _Maker:
    """Makes jobs, and remembers what several of them share."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self._known: dict[str, Any] = {}

    def distillation(self, planned: Distillation) -> Job:
        recipe = planned.recipe
        corpus = recipe.corpus
        is_drawn = corpus.share < 1 or corpus.examples is not None or recipe.evaluation.sources is None
        # where nothing is drawn the text is the same for every seed
        seeded = recipe if is_drawn else dataclasses.replace(recipe, seed=0)
        prepared = self._once(_prepare, seeded, self.resources.distil.processes)
        decides = fixed_fields(dataclasses.replace(recipe, **prepared["in full"]))
        identity = {
            "kind": "distil",
            "code": VERSIONS["distil"],
            "recipe": {key: value for key, value in decides.items() if not key.startswith("training.arguments.")},
            "alignment": _alignment(recipe),
            "processes": self.resources.distil.processes,
            **prepared["digests"],
            **student_contents(recipe),
        }
        if recipe.training.arguments:
            identity["arguments"] = recipe.training.arguments
        if own := own_parts(recipe):
            identity["own parts"] = own
        return Job(planned, json.loads(json.dumps(identity)), numbers=prepared["numbers"])

    def evaluation(self, planned: Evaluation, student: Job | None) -> Job:
        if isinstance(planned.of, Distillation):
            assert student is not None
            teacher = planned.of.recipe.teacher
            if teacher.tokenizer is not None:
                raise Refusal(
                    "teacher.tokenizer",
                    "evaluations are planned with the teacher's own tokenizer; save it in the teacher's "
                    "folder and leave this out",
                )
            model, depth = (
                ModelSource(teacher.model, "teacher.model", teacher.revision),
                sizes_of_student(planned.of.recipe).depth,
            )
        else:
            model, depth = ModelSource(planned.of.model, "model"), None
        settings = planned.settings
        if planned.seed is not None:  # the same data for every seed
            settings = dataclasses.replace(settings, seeds=[0])
        measured = self._once(_measured, planned.kind, settings, model, depth)
        identity = {
            **measured,
            "kind": planned.kind,
            "code": find(planned.kind).version,
            "model": student.hash if student else measured["model"],
        }
        if planned.seed is not None:
            identity["seed"] = planned.seed
        return Job(planned, json.loads(json.dumps(identity)), student=student.hash if student else None)

    def _once(self, make: Any, *arguments: Any) -> Any:
        key = repr((make.__name__, arguments))
        if key not in self._known:
            self._known[key] = make(*arguments)
        return self._known[key]


def _prepare(recipe: Recipe, processes: int) -> dict[str, Any]:
    """Load all that the recipe names; what it is, and what the run is going to do."""
    parts = prepare(recipe, training_arguments(recipe, output_dir=recipe.output))
    plan = dataclasses.replace(parts.plan, processes=processes)
    tokens = plan.steps * plan.tokens_per_step
    section = recipe.teacher
    tokenizer = section.tokenizer and models.digest(ModelSource(section.tokenizer, "teacher.tokenizer"))
    return {
        "digests": {
            "teacher": models.digest(ModelSource(section.model, "teacher.model", section.revision)),
            "tokenizer": tokenizer,
            "corpus": parts.corpus.digest(),
            "held out": parts.held_out and parts.held_out.digest(),
        },
        # With what they mean where they say nothing: a job is the same, said or not.
        "in full": {"student": plan.recipe.student, "objective": plan.recipe.objective},
        "numbers": Numbers(plan.steps, tokens, tokens * plan.cost.total),
    }


def _alignment(recipe: Recipe) -> list[dict[str, Any]]:
    task = find_task(recipe.task)
    config = load_config(recipe.teacher, head=task.head, noun=task.noun)
    depth = models.sizes_of(config, field="teacher.model").depth
    layers = {"teacher_layers": depth, "student_layers": sizes_of_student(recipe).depth}
    return [dataclasses.asdict(pair) for pair in build_alignment(recipe.alignment, **layers, seed=recipe.seed).pairs]


def _measured(name: str, settings: Any, model: ModelSource, depth: int | None) -> dict[str, Any]:
    """What decides an evaluation's result beside the student, for which its teacher stands in where it is yet to be made."""
    kind = find(name)
    with refusals_under(f"evaluations.{kind.section or name}.", settings):  # fields of the grid here
        return kind.identity(settings, model, depth=depth)
