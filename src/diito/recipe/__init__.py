"""Recipes: what a run is (``sections``), reading and writing it (``file``), refusing it (``checks``). No torch."""

from diito.recipe.fields import DimensionRange
from diito.recipe.sections import (
    RELEASED_LAYERS,
    AlignedPairSection,
    AlignmentSection,
    CorpusSection,
    EvaluationSection,
    InterventionSection,
    MaskingSection,
    ObjectiveSection,
    OptionsSection,
    Recipe,
    ScheduleSection,
    SourceSection,
    SpeedSection,
    StudentSection,
    TeacherSection,
    TrainingSection,
    WeightsSection,
)

__all__ = [
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
