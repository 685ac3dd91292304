"""The rotation of a recipe (``alignment.rotation``): read, held against the teacher, and made for the student."""

from __future__ import annotations

from diito.method.alignment import Alignment
from diito.method.rotation import Rotation, check_bases
from diito.method.rotation_files import FIELD, read_rotation
from diito.models import load as models
from diito.models.load import ModelSource, Sizes
from diito.recipe import Recipe
from diito.refusal import Refusal


def rotation_of(recipe: Recipe, alignment: Alignment, *, teacher: Sizes, student: Sizes, causal: bool) -> Rotation | None:
    """What the pairs of ``alignment`` are swapped in; None where the recipe names none.

    ``causal``: whether a loss reads the runs under the intervention. Raises Refusal naming the field.
    """
    path = recipe.alignment.rotation.path
    if path is None:
        return None
    if not causal:
        raise Refusal(FIELD, "needs a weight of a loss under the intervention, such as causal_ce")
    found = read_rotation(path)
    source = ModelSource(recipe.teacher.model, "teacher.model", recipe.teacher.revision)
    found.check_teacher(models.digest(source))
    check_bases(found.bases, width=teacher.width, field=FIELD)
    try:
        return Rotation(found.bases, alignment, student_width=student.width, seed=recipe.seed)
    except Refusal as refusal:
        raise refusal.at(FIELD) from refusal
