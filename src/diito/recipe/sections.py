"""A run, as data: the dataclasses behind ``recipes/*.yaml``.

1. ``file.read`` fills a :class:`Recipe` from a YAML file and ``section.key`` overrides;
2. ``checks.check`` refuses values that no model or corpus could make right, naming the field;
3. each part of the program is then handed its own section and nothing else.

The text under a field is its documentation everywhere: ``diito distill --help`` shows it.

No torch here: ``diito --help`` and a mistyped recipe answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

RELEASED_LAYERS = {
    "released-3": [0, 2, 4],
    "released-6": [0, 2, 4, 7, 9, 11],
    "released-9": [0, 2, 3, 4, 7, 8, 9, 10, 11],
}
"""The layers of the authors' released students, by the name a recipe gives them; for a teacher of 12 layers."""

DimensionRange = tuple[int, int]
"""``[start, stop)`` within a hidden state."""


@dataclass
class TeacherSection:
    """The model that is distilled."""

    model: str = "google-bert/bert-base-uncased"
    """Hub id, local folder, or ``embedded:teacher-minilm-mlm`` (the small teacher that comes with diito)."""
    revision: str | None = None
    """Hub revision (branch, tag or commit) of the teacher."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer; null takes the teacher's own."""


@dataclass
class StudentSection:
    """The model that is trained, made from the teacher's layers."""

    layers: int | list[int] | str = 6
    """A number of layers (layer i is copied from teacher layer floor(i * L_T / n)), the list of teacher layers to copy,
    or the name of a released list: released-3, released-6, released-9."""
    dropout: float | None = None
    """Dropout of hidden states and attention in the student; null keeps the teacher's."""


@dataclass
class SourceSection:
    """One source of text: a local path or a hub dataset."""

    path: str | None = None
    """Local file, folder or glob (.txt, .jsonl, .parquet, each also .gz or .xz), or text that comes with diito:
    ``embedded:wikitext-2/train.txt.gz``."""
    dataset: str | None = None
    """Hub id of a dataset, instead of ``path``."""
    config: str | None = None
    """Configuration of the hub dataset."""
    split: str = "train"
    """Split of the hub dataset."""
    revision: str | None = None
    """Hub revision of the dataset."""
    column: str = "text"
    """Column that holds the text (.jsonl, .parquet and hub datasets)."""


@dataclass
class CorpusSection:
    """The training text."""

    sources: list[SourceSection | str] = field(
        default_factory=lambda: [SourceSection(dataset="Salesforce/wikitext", config="wikitext-103-v1")]
    )
    """Where the text comes from, joined in this order. A plain string is a local path."""
    layout: Literal["blocks", "lines"] = "blocks"
    """blocks: documents joined and cut to ``length``, no padding. lines: one line a sequence, as the paper."""
    length: int | None = None
    """Tokens of a block; in lines the longest sequence (longer lines are split). Special tokens included. null takes what the
    teacher allows, at most 512."""
    share: float = 1.0
    """Share of the documents that is used, a seeded subset (the paper's low-resource runs: 0.15)."""
    minimum_tokens: int = 12
    """lines: a sequence with fewer tokens, specials included, is dropped."""
    maximum_unknown: float = 0.5
    """lines: a sequence in which this share of tokens or more is unknown is dropped."""
    workers: int = 2
    """Processes that tokenise."""
    cache: str | None = None
    """Folder of the tokenised corpus; null takes the cache folder of Hugging Face datasets."""


@dataclass
class MaskingSection:
    """Which words are hidden for the masked-language-model task."""

    rate: float = 0.15
    """Share of a row's maskable tokens that is predicted."""
    smoothing: float = 0.7
    """Tokens are drawn in proportion to count ** -smoothing over the corpus; 0 draws uniformly."""


@dataclass
class AlignedPairSection:
    """One pair of a custom alignment."""

    student: list[int]
    """Student layers (0-based) whose outputs are swapped."""
    teacher: list[int]
    """Teacher layers (0-based) aligned with them."""
    student_dimensions: list[DimensionRange] | None = None
    """Ranges [start, stop) of the student's hidden state; null swaps all of it."""
    teacher_dimensions: list[DimensionRange] | None = None
    """Ranges [start, stop) of the teacher's hidden state; null swaps all of it."""


@dataclass
class AlignmentSection:
    """Which student layers answer to which teacher layers."""

    kind: Literal["full", "middle", "late", "late-released", "custom"] = "full"
    """Which student layer answers to which teacher layers; custom takes ``pairs`` or ``file``."""
    pairs: list[AlignedPairSection] | None = None
    """The pairs of a custom alignment."""
    file: str | None = None
    """Instead of ``pairs``: a released ``.nm`` file, or YAML with this section, such as ``diito align`` writes."""
    top: bool = True
    """false drops pairs that reach the student's last layer (only the output head is above it)."""
    shuffled: bool = False
    """A control: the alignment with the teacher layers permuted (seeded)."""


@dataclass
class InterventionSection:
    """Which tokens are swapped, and with whose."""

    positions: Literal["consecutive", "random", "masked"] = "consecutive"
    """Which eligible tokens of a row are swapped."""
    share: float = 0.3
    """Share of a row's eligible tokens that is swapped, at least one."""
    specials: bool = False
    """true makes [CLS] and [SEP] eligible as well."""
    source_positions: Literal["same", "independent"] = "same"
    """same: the base's own positions, as the paper. independent: drawn for the source, as the released code."""
    pairing: Literal["in-batch", "independent"] = "in-batch"
    """in-batch: every row is the source of another row. independent: sources are drawn from the corpus on their own."""
    control: Literal["none", "token-swap"] = "none"
    """token-swap: the same spans are swapped in the input ids instead of the activations."""


@dataclass
class WeightsSection:
    """Weights of the losses in their sum, used as given; a causal weight of 0 costs nothing."""

    mlm: float = 0.25
    """Cross-entropy of the student with the masked words."""
    ce: float = 0.25
    """Smoothed cross-entropy with the teacher."""
    cos: float = 0.25
    """Cosine distance of the last hidden states."""
    causal_ce: float = 0.25
    """The DIITO loss: smoothed cross-entropy under the same interchange intervention."""
    causal_cos: float = 0.0
    """Cosine distance of the last hidden states under the same interchange intervention."""
    mse: float = 0.0
    """Squared error of the logits, summed over the vocabulary."""


@dataclass
class ObjectiveSection:
    """The losses."""

    weights: WeightsSection = field(default_factory=WeightsSection)
    temperature: float = 2.0
    """Temperature of both smoothed cross-entropies."""
    tokens: Literal["masked", "all"] = "masked"
    """Tokens of every loss but mlm: the masked ones (the paper) or all real ones (the released code)."""


@dataclass
class TrainingSection:
    """Steps, batches, optimiser and device."""

    epochs: float = 3.0
    """Passes over the corpus; ``steps`` wins where given."""
    steps: int | None = None
    """Optimiser steps."""
    batch: int = 40
    """Sequences of a micro-batch on one device."""
    accumulation: int = 6
    """Micro-batches an optimiser step."""
    learning_rate: float = 5e-4
    """Highest learning rate of AdamW, reached at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates."""
    epsilon: float = 1e-6
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    warmup: float = 0.05
    """Share of the steps with a rising learning rate; it then falls linearly to 0."""
    clip: float = 5.0
    """Largest gradient norm; 0 does not clip."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu stays on the CPU even where there is an accelerator."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep: int = 2
    """Checkpoints kept."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates before and after training only."""
    report_to: list[str] = field(default_factory=list)
    """Loggers of Trainer, e.g. [tensorboard, wandb, mlflow]."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Any other field of transformers.TrainingArguments, e.g. {push_to_hub: true, hub_model_id: me/student}."""


@dataclass
class SpeedSection:
    """What makes training faster; each can be turned off."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast, the teacher held in bf16, the losses in fp32. auto: bf16 where the device multiplies it itself."""
    compile: bool = False
    """Compile each layer: a cold start of tens of seconds, and no gain on a CPU."""
    fast_dropout: bool = True
    """On a CPU, where layers are not compiled: the student's dropout drawn several times faster than torch does, at the same
    rate."""
    keep_memory: bool = True
    """On Linux: memory that a step has freed is kept for the next instead of given back to the system."""


@dataclass
class EvaluationSection:
    """Held-out text, before and after training: perplexity and interchange-intervention accuracy."""

    sources: list[SourceSection | str] | None = None
    """Held-out text, as in ``corpus.sources``. null holds out a few of the corpus's documents, which are then not trained on;
    an empty list switches evaluation off."""
    length: int | None = None
    """Tokens of an evaluation block; null takes what the teacher allows, at most 512."""
    blocks: int | None = None
    """Blocks that are evaluated, spread over the text; null takes all, of the corpus's own documents at most 200."""
    batch: int = 16
    """Blocks evaluated at a time (the results do not depend on it)."""
    interchange_every: int = 0
    """Steps between measurements of interchange-intervention accuracy alone; 0: only where all is evaluated
    (``training.evaluate_every``, and before and after training)."""


@dataclass
class Recipe:
    """One run."""

    name: str = "run"
    """The run's folder is ``<output>/<name>``."""
    output: str = "runs"
    """Folder that holds the runs."""
    seed: int = 42
    """Every random draw is a function of this seed and of a position in the run."""
    teacher: TeacherSection = field(default_factory=TeacherSection)
    student: StudentSection = field(default_factory=StudentSection)
    corpus: CorpusSection = field(default_factory=CorpusSection)
    masking: MaskingSection = field(default_factory=MaskingSection)
    alignment: AlignmentSection = field(default_factory=AlignmentSection)
    intervention: InterventionSection = field(default_factory=InterventionSection)
    objective: ObjectiveSection = field(default_factory=ObjectiveSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    speed: SpeedSection = field(default_factory=SpeedSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
