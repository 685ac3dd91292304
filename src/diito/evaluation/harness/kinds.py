"""The kind ``harness`` as a row. No torch here."""

from __future__ import annotations

from diito.evaluation.kind import Kind, later
from diito.evaluation.settings import HarnessSettings

HARNESS = Kind(
    "harness",
    HarnessSettings,
    jobs=later("evaluation.harness.jobs:harness_jobs"),
    identity=later("evaluation.harness.jobs:harness_identity"),
    tables=later("evaluation.tables:harness_tables"),
    packages=lambda settings: ("lm_eval",),
    extra="harness",
)
