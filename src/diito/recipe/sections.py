"""A run, as data: the dataclasses behind ``recipes/*.yaml``.

1. ``file.read`` fills a :class:`Recipe` from a YAML file and ``section.key`` overrides; pydantic checks types and ranges;
2. ``checks.check`` refuses what cannot be right across fields;
3. each part of the program is then handed its own section and nothing else.

The text under a field is its documentation everywhere: ``diito distill --help``, ``diito init`` and ``diito schema`` show it.
What a field accepts stands in its type (``fields``).

No torch here: ``diito --help`` and a mistyped recipe answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt, MinLen, Predicate

from diito.recipe.fields import (
    FREE,
    LATER,
    PLACE,
    Alias,
    Aliased,
    BelowOne,
    Count,
    CountOrNever,
    DimensionRange,
    Layers,
    Length,
    NotNegative,
    Places,
    Share,
    ShortPair,
    Text,
    is_folder_name,
    is_short_pair,
)
from diito.recipe.objective import ObjectiveSection
from diito.recipe.training import TrainingSection

RELEASED_LAYERS = {
    "released-3": [0, 2, 4],
    "released-6": [0, 2, 4, 7, 9, 11],
    "released-9": [0, 2, 3, 4, 7, 8, 9, 10, 11],
}
"""The layers of the authors' released students, by the name a recipe gives them; for a teacher of 12 layers."""
LAYERS = 6
"""The layers of a student where a recipe says nothing of it."""


@dataclass
class TeacherSection:
    """The model that is distilled."""

    model: Text = field(default="google-bert/bert-base-uncased", metadata=PLACE)
    """Hub id, local folder, or ``embedded:teacher-minilm-mlm`` (the small teacher that comes with diito)."""
    revision: str | None = field(default=None, metadata=PLACE)
    """Hub revision (branch, tag or commit) of the teacher."""
    tokenizer: str | None = field(default=None, metadata=PLACE)
    """Hub id or folder of the tokenizer; null takes the teacher's own."""
    cache: str | None = field(default=None, metadata=FREE)
    """Folder of the teacher's answers that ``diito cache`` wrote for this recipe: its layers are not run. null: they are."""


@dataclass
class StudentSection:
    """The model that is trained: some of the teacher's layers, another checkpoint, or the teacher's configuration changed."""

    layers: Count | Layers | str | None = None
    """A number of layers (layer i is copied from teacher layer floor(i * L_T / n)), the list of teacher layers to copy,
    or the name of a released list: released-3, released-6, released-9. null: 6, where neither ``model`` nor ``config`` is
    given."""
    model: Text | None = field(default=None, metadata=PLACE)
    """Instead of ``layers``: hub id or local folder of any model of the same task whose tokenizer gives the same ids."""
    revision: str | None = field(default=None, metadata=PLACE)
    """Hub revision (branch, tag or commit) of ``model``."""
    config: dict[str, Any] | None = field(default=None, metadata=LATER)
    """Instead of ``layers``: fields of the teacher's configuration that are others in the student, such as
    {num_hidden_layers: 4, hidden_size: 256, num_attention_heads: 4, intermediate_size: 1024}."""
    initial: Literal["teacher", "cut", "random"] | None = field(default=None, metadata=LATER)
    """The first weights. teacher: copied with the layers (the default with ``layers``). random: drawn by the seed (the default
    with ``config``). cut: those heads, neurons and dimensions of the teacher that are most active on rows of the corpus."""
    calibration: Count | None = field(default=None, metadata=LATER)
    """Rows of the corpus that ``initial: cut`` looks at; null: 256."""
    freeze: list[Text] | None = field(default=None, metadata=LATER)
    """Parts that are not trained: embeddings, head, norm, layers, layers.0, or the path of a module."""
    lora: dict[str, Any] | None = field(default=None, metadata=LATER)
    """Train an adapter in place of the student's weights: fields of peft.LoraConfig, such as {r: 8, lora_alpha: 16}, and
    ``merge``; merge: true (the default) saves the model with the adapter in its weights, false the adapter alone, for a student
    of ``model``. Needs the extra [peft]."""
    dropout: BelowOne | None = None
    """Dropout of hidden states and attention in the student; null keeps that of its configuration."""


@dataclass
class SourceSection:
    """One source of text: a local path or a hub dataset."""

    path: str | None = None
    """Local file, folder or glob (.txt, .jsonl, .csv, .tsv, .parquet, each also .gz or .xz), or text of diito's own:
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
    """Column that holds the text (all but .txt); in token classification the list of words. causal-lm: ``messages`` holds
    conversations, lists of {role, content}; with ``prompt`` it is the column of what follows the prompt."""
    prompt: str | None = None
    """causal-lm: column of a prompt, a text or a list of messages, which is read and not predicted: ``{path: my.jsonl, prompt:
    prompt, column: completion}``."""
    pair: str | None = None
    """sequence-classification: column of a second text, for models that read two."""
    label: str | None = None
    """Classification: column of the answer, a class (by name or number) or a number; in token classification the list of
    tags. null: no row has one, and the student learns from the teacher's answers alone."""


@dataclass
class CorpusSection(Aliased):
    """The training text."""

    sources: Annotated[list[SourceSection | Text], MinLen(1)] = field(
        default_factory=lambda: [SourceSection(dataset="Salesforce/wikitext", config="wikitext-103-v1")], metadata=PLACE
    )
    """Where the text comes from, joined in this order. A plain string is a local path. causal-lm also learns from chat data,
    ``{path: chats.jsonl, column: messages}``, and from prompts with completions, ``{path: my.jsonl, prompt: prompt, column:
    completion}``, of which the assistant's words are predicted, or the completion."""
    layout: Literal["blocks", "lines"] = "blocks"
    """blocks: documents joined and cut to ``length``, no padding; whole conversations, which do not see each other. lines: one
    line a sequence, as the paper, or one conversation. In classification an example is a sequence, whatever stands here."""
    length: Length | None = None
    """Tokens of a block; in lines the longest sequence (longer lines are split, longer examples and conversations cut). Special
    tokens included. null: as many as the teacher allows, at most 512."""
    document_boundaries: bool = False
    """blocks of causal-lm: true frames each document instead of each block, and lets no token look beyond its document, in
    which positions begin anew."""
    assistant_only_loss: bool = field(default=True, metadata=LATER)
    """Conversations, and prompts with completions: what the assistant says is predicted, or the completion; false predicts all
    of it (also: completion_only_loss)."""
    share: Share = 1.0
    """Share of the documents that is used, a seeded subset (the paper's low-resource runs: 0.15)."""
    examples: Count | None = None
    """Classification: so many labelled examples, a seeded subset with as many of each class; null takes all rows."""
    minimum_tokens: CountOrNever = 12
    """lines: a sequence with fewer tokens, specials included, is dropped."""
    maximum_unknown: Share = 0.5
    """lines: a sequence in which this share of tokens or more is unknown is dropped."""
    workers: Count = field(default=2, metadata=FREE)
    """Processes that tokenise."""
    cache: str | None = field(default=None, metadata=FREE)
    """Folder of the tokenised corpus; null takes the cache folder of Hugging Face datasets."""

    ALIASES: ClassVar[Mapping[str, Alias]] = {"completion_only_loss": Alias(("assistant_only_loss",))}


@dataclass
class MaskingSection:
    """Which words are hidden for the masked-language-model task."""

    rate: Share = 0.15
    """Share of a row's maskable tokens that is predicted."""
    smoothing: NotNegative = 0.7
    """Tokens are drawn in proportion to count ** -smoothing over the corpus; 0 draws uniformly."""


@dataclass
class AlignedPairSection:
    """One pair of a custom alignment."""

    student: Layers
    """Student layers (0-based) whose outputs are swapped."""
    teacher: Layers
    """Teacher layers (0-based) aligned with them."""
    student_dimensions: Annotated[list[DimensionRange], MinLen(1)] | None = None
    """Ranges [start, stop) of the student's hidden state; null swaps all of it."""
    teacher_dimensions: Annotated[list[DimensionRange], MinLen(1)] | None = None
    """Ranges [start, stop) of the teacher's hidden state; null swaps all of it."""


def _in_full(pair: Any) -> Any:
    """``[s, t]`` as a section; anything else as it is."""
    if not is_short_pair(pair):
        return pair
    student, teacher = ([side] if isinstance(side, int) else side for side in pair)
    return AlignedPairSection(student=student, teacher=teacher)


@dataclass
class RotationSection:
    """Sub-spaces that are swapped instead of whole states: those found in the teacher's layers, and as many dimensions of each
    student layer, in directions that are trained along with the student."""

    path: Text | None = field(default=None, metadata=PLACE)
    """The file of the teacher's, which ``diito align TEACHER --rotation.dimensions 16`` writes; null: none."""


CHOICE_STEPS = 500
"""Steps between two choices of a learned alignment, where a recipe does not say."""


@dataclass
class AlignmentSection:
    """Which student layers answer to which teacher layers."""

    kind: Literal["full", "middle", "late", "late-released", "custom", "learned"] = "full"
    """Which student layer answers to which teacher layers; custom takes ``pairs`` or ``file``. learned: full at first, then
    chosen anew every so many steps from the map of all pairs of layers on held-out text, as ``diito align`` chooses."""
    pairs: Annotated[list[AlignedPairSection | ShortPair], MinLen(1)] | None = None
    """The pairs of a custom alignment; [s, t] is short for {student: [s], teacher: [t]}, and s or t may be a list of layers."""
    file: str | None = field(default=None, metadata=PLACE)
    """Instead of ``pairs``: a released ``.nm`` file, or YAML with this section, such as ``diito align`` writes."""
    top: bool = True
    """false drops pairs that reach the student's last layer (only the output head is above it)."""
    shuffled: bool = False
    """A control: the alignment with the teacher layers permuted (seeded), for interventions; losses of states compare the
    layers that they would without it."""
    rotation: RotationSection = field(default_factory=RotationSection, metadata=LATER)
    every: Count | None = field(default=None, metadata=LATER)
    """learned: optimiser steps between two choices; null: 500."""
    pairs_per_batch: Count = field(default=1, metadata=LATER)
    """Different pairs drawn for each micro-batch, of which each has a counterfactual run of its own, with swaps of its own; the
    losses under the intervention are the means over these runs. (Layers that are to be swapped at once stand in one pair.)"""

    def __post_init__(self) -> None:
        if isinstance(self.pairs, list):  # written in full, however they were given
            self.pairs = [_in_full(pair) for pair in self.pairs]


@dataclass
class PositionsSection:
    """Positions that a recipe names itself, whatever ``share``: exactly one of these."""

    at: Places | None = None
    """These positions of each row, counted from 0, special tokens included."""
    segments: Annotated[list[Places], MinLen(1)] | None = None
    """One of these lists of positions, drawn for each row."""
    tokens: Annotated[list[Text], MinLen(1)] | None = None
    """Wherever the base has one of these tokens of the tokenizer, such as ``["="]``; with independent source positions the
    source is read where it has them, the k-th for the k-th."""

    def __str__(self) -> str:
        (given,) = [name for name, value in vars(self).items() if value is not None] or ["positions"]
        return f"{given} {getattr(self, given, '')}"


@dataclass
class InterventionSection:
    """Which tokens are swapped, and with whose."""

    positions: PositionsSection | Literal["consecutive", "random", "masked", "prefix-end"] | str = "consecutive"
    """Which eligible tokens of a row are swapped; prefix-end: the last one before the first that is predicted.
    ``{at: [0, 1]}``: these positions; ``{segments: [[0, 1], [2, 3]]}``: one of these spans in each row; ``{tokens: ["="]}``:
    where these tokens stand. Or a rule of your own, such as ``my_package.rules:last``."""
    share: Share = 0.3
    """Share of a row's eligible tokens that is swapped, at least one."""
    specials: bool = False
    """true makes [CLS] and [SEP] eligible as well."""
    across_texts: bool = False
    """Two texts: true lets a swap take tokens of both; false draws one of the two for each row."""
    source_positions: Literal["same", "independent"] = "same"
    """same: the base's own positions, as the paper. independent: drawn for the source, as the released code."""
    pairing: Literal["in-batch", "independent"] | str = "in-batch"
    """in-batch: every row is the source of another row. independent: sources are drawn from the corpus on their own. Or a
    pairing of your own, such as ``my_package.rules:neighbour``."""
    sources_per_row: Count = field(default=1, metadata=LATER)
    """Sources of a row in one counterfactual run: its eligible tokens are cut into as many successive parts, and in each of
    these ``share`` of the tokens, at least one, takes the values of another source."""
    control: Literal["none", "token-swap", "both"] = "none"
    """token-swap: the same spans are swapped in the input ids instead of the activations. both: each micro-batch has a
    counterfactual run of either kind, with the same positions and sources, and the losses under them are means over both."""


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
    keep_memory: bool = field(default=True, metadata=FREE)
    """On Linux: memory that a step has freed is kept for the next instead of given back to the system."""


@dataclass
class EvaluationSection:
    """Held-out text, before and after training: perplexity and interchange-intervention accuracy."""

    sources: list[SourceSection | Text] | None = field(default=None, metadata=PLACE)
    """Held-out text, as in ``corpus.sources``. null holds out a few of the corpus's documents, which are then not trained on;
    an empty list switches evaluation off."""
    length: Length | None = None
    """Tokens of an evaluation block; null: as many as ``corpus.length``."""
    blocks: Count | None = None
    """Blocks that are evaluated, spread over the text; null takes all, of the corpus's own documents at most 200."""
    batch: Count = 16
    """Blocks evaluated at a time (the results do not depend on it)."""
    continuations: CountOrNever = field(default=3, metadata=FREE)
    """causal-lm: so many held-out texts are continued by teacher and student after training, greedily; 0: none."""
    interchange_every: CountOrNever = field(default=0, metadata=FREE)
    """Steps between measurements of interchange-intervention accuracy alone; 0: only where all is evaluated
    (``training.eval_steps``, and before and after training)."""


@dataclass
class Recipe:
    """One run."""

    name: Annotated[str, Predicate(is_folder_name)] = field(default="run", metadata=FREE)
    """The run's folder is ``<output>/<name>``."""
    output: Text = field(default="runs", metadata=FREE)
    """Folder that holds the runs."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 42
    """Every random draw is a function of this seed and of a position in the run."""
    task: Text = "masked-lm"
    """What the models are trained for: masked-lm, causal-lm, sequence-classification, token-classification, cloze (the word
    at a mask that stands in the data), or a task of your own, such as ``my_package.tasks:my_task``."""
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
