"""Recipes: what a run is (``sections``), reading and writing it (``file``), refusing it (``checks``). No torch."""

from diito.recipe.fields import DimensionRange
from diito.recipe.objective import ObjectiveSection, OptionsSection, ScheduleSection, WeightsSection
from diito.recipe.sections import (
    LAYERS,
    RELEASED_LAYERS,
    AlignedPairSection,
    AlignmentSection,
    CorpusSection,
    EvaluationSection,
    InterventionSection,
    MaskingSection,
    Recipe,
    SourceSection,
    SpeedSection,
    StudentSection,
    TeacherSection,
)
from diito.recipe.training import TrainingSection

__all__ = [
    "LAYERS",
    "RELEASED_LAYERS",
    "AlignedPairSection",
    "AlignmentSection",
    "CorpusSection",
    "DimensionRange",
    "EvaluationSection",
    "InterventionSection",
    "MaskingSection",
    "ObjectiveSection",
    "OptionsSection",
    "Recipe",
    "ScheduleSection",
    "SourceSection",
    "SpeedSection",
    "StudentSection",
    "TeacherSection",
    "TrainingSection",
    "WeightsSection",
]
