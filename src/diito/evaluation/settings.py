"""What ``diito evaluate`` measures and how, as data: every field is a flag. No torch here.

The text under a field is its documentation: ``diito evaluate KIND --help`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from diito.recipe.fields import AboveZero, Alias, Count, CountOrNever, Layers, Length, Share
from diito.recipe.sections import AlignmentSection, PositionsSection, SourceSection
from diito.refusal import Refusal

_NOT_GIVEN = -1


@dataclass
class EvaluateSettings:
    """Where it runs and what it leaves."""

    output: str | None = None
    """The results file (JSON). What is in it already, measured with the same settings on the same model, is not measured
    again; anything else is added. null: evaluations/<model>.json."""
    again: bool = False
    """true measures anew, in place of what is in the results file."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu stays on the CPU even where there is an accelerator."""
    revision: str | None = None
    """Hub revision (branch, tag or commit) of the model."""


@dataclass
class HeldOutSettings:
    """Held-out text: of masked-lm masked uniformly (15 % of the tokens, 80/10/10), of causal-lm as it stands."""

    sources: list[SourceSection | str] = field(
        default_factory=lambda: [SourceSection(dataset="Salesforce/wikitext", config="wikitext-103-v1", split="validation")]
    )
    """Held-out text, as in a recipe's ``corpus.sources``. A plain string is a local path."""
    layout: Literal["blocks", "lines"] = "blocks"
    """blocks: text joined and cut to ``length``. lines: one line a sequence; conversations always are."""
    length: Length | None = None
    """Tokens of a block, or of the longest line; null: 512, or as many as the models have positions for."""
    assistant_only_loss: bool = True
    """Conversations, and prompts with completions: what the assistant says is measured, or the completion; false measures all
    of it."""
    limit: Count | None = None
    """How many blocks or lines, spread evenly over the text; null takes all."""
    batch: Count = 16
    """Blocks at a time (the results do not depend on it)."""
    seed: int = 42
    """Masks and swaps are functions of this seed and of the number of the block."""
    workers: Count = 2
    """Processes that tokenise."""
    task: str | None = None
    """What the model is for: masked-lm, causal-lm or a task of your own; null: what the head it was saved with is for."""
    cache: str | None = None
    """Folder of the tokenised text; null takes the cache folder of Hugging Face datasets."""
    blocks: InitVar[int | None] = _NOT_GIVEN
    """The name of ``limit`` in diito 0.1."""

    LENGTH: ClassVar[int] = 512
    """What ``length`` is where the models have positions for it and nothing else is given."""
    ALIASES: ClassVar[Mapping[str, Alias]] = {"blocks": Alias(("limit",))}

    def __post_init__(self, blocks: int | None) -> None:
        if blocks == _NOT_GIVEN:
            return
        if self.limit != type(self).limit:
            raise Refusal("blocks", "the same as limit; give one of them")
        self.limit = blocks


@dataclass
class PerplexitySettings(HeldOutSettings):
    """Perplexity of masked words, or of next tokens: exp of their mean cross-entropy."""

    stride: Count | None = None
    """causal-lm: tokens from the beginning of a block to that of the next, so that all but the first block's are predicted with
    at least length - stride tokens before them; null: blocks do not overlap."""
    draws: Count = 3
    """masked-lm: independent draws of the masks; the perplexity is that of all together, the spread is between them."""
    against: str | None = None
    """A second model (hub id or folder): both are measured on the same masks, and the difference gets an interval."""


@dataclass
class ClassificationSettings(HeldOutSettings):
    """Accuracy, F1, Matthews' correlation and calibration of a classifier, entity F1 of a tagger, correlations of a regression,
    on labelled examples; with a teacher both, and how often they agree."""

    sources: list[SourceSection | str] = field(default_factory=list)
    """Labelled examples, as in a recipe's ``corpus.sources``: ``[{path: dev.tsv, column: sentence, label: label}]``, or column
    files for a tagger."""
    length: Length | None = None
    """Tokens of an example, longer ones are cut; null: 128, or as many as the models have positions for."""
    teacher: str | None = None
    """The teacher: hub id or folder."""
    teacher_revision: str | None = None
    """Hub revision (branch, tag or commit) of the teacher."""

    LENGTH: ClassVar[int] = 128


@dataclass
class InterchangeSettings(HeldOutSettings):
    """Interchange-intervention accuracy of a student with its teacher."""

    length: Length | None = None
    """Tokens of a block, or of the longest line; null: 128, or as many as the models have positions for."""
    limit: Count | None = 200
    """How many blocks or lines, spread evenly over the text; null takes all."""
    teacher: str | None = None
    """The teacher: hub id, folder, or embedded:teacher-minilm-mlm."""
    teacher_revision: str | None = None
    """Hub revision (branch, tag or commit) of the teacher."""
    map: bool = False
    """true measures every pair of a student layer and a teacher layer, instead of an alignment, and draws a heat map."""
    alignment: AlignmentSection = field(default_factory=AlignmentSection)
    positions: PositionsSection | Literal["consecutive", "random", "masked", "prefix-end"] = "consecutive"
    """Which eligible tokens of a row are swapped; also ``{at: [0, 1]}`` and the like, as in a recipe."""
    share: Share = 0.3
    """Share of a row's eligible tokens that is swapped, at least one."""
    student_layers: int | list[int] | str | None = None
    """The teacher layers that the student was made of, as in a recipe's ``student.layers``: they make the undistilled student.
    null: layer i from teacher layer floor(i * L_T / n)."""
    figure: str | None = None
    """File of the heat map (.png, .pdf, .svg); null: beside the results file."""

    LENGTH: ClassVar[int] = 128


@dataclass
class MapSettings(InterchangeSettings):
    """Interchange-intervention accuracy of every pair of a student layer and a teacher layer, with a heat map."""

    map: bool = True
    """false measures an alignment instead, as the kind interchange does."""


@dataclass
class RotationSettings:
    """Sub-spaces of the teacher's layers, found in the teacher alone (leave STUDENT out): those in which a swap gives most
    nearly the answers of a swap of the whole state."""

    dimensions: Count | None = None
    """So many dimensions of each layer's state; null finds an alignment, and no sub-space."""
    layers: Layers | None = None
    """The layers, counted from 0; null: all of the teacher's."""
    sources: list[SourceSection | str] = field(default_factory=list)
    """The text on which they are found, other than ``sources``, on which what was found is measured."""
    limit: Count | None = 2000
    """How many blocks or lines of it, spread evenly; null takes all."""
    steps: Count = 200
    """Steps of the search."""
    batch: Annotated[int, Ge(2)] = 16
    """Blocks or lines of a step, each the source of another."""
    learning_rate: AboveZero = 5e-3
    """Of Adam; it falls linearly to 0."""
    file: str = "rotation.safetensors"
    """Where they are written."""


@dataclass
class AlignSettings(InterchangeSettings):
    """The map of all pairs of layers, and the alignment that is chosen from it; or, without a student, a rotation."""

    alignment: AlignmentSection = field(default_factory=AlignmentSection)
    """The alignment that the best one is held against, and that is kept where it is undecided which is better."""
    score: Literal["counterfactual_kl", "iia", "effective_iia"] = "counterfactual_kl"
    """What the alignment is chosen by, summed over its pairs, at unswapped tokens. The divergence uses all of a prediction and
    is the least noisy; the accuracies see only the most likely word."""
    file: str = "alignment.yaml"
    """Where the alignment is written."""
    rotation: RotationSettings = field(default_factory=RotationSettings)


@dataclass
class StructureSettings:
    """Whether a model computes as the known causal model of generated data does: accuracy by split, and how often it gives the
    causal model's answer when an intermediate value is swapped, at each layer and span that could carry it."""

    data: str | None = None
    """The folder that diito generate has written."""
    splits: list[str] = field(default_factory=lambda: ["test", "held"])
    """Of which rows accuracy is measured: some of teacher, train, validation, test, held."""
    teacher: str | None = None
    """The teacher (hub id or folder), where the model is its student: how often both answer alike is measured too."""
    teacher_revision: str | None = None
    """Hub revision (branch, tag or commit) of the teacher."""
    site: str | None = None
    """A file that ``write_site`` has made of the teacher: the variable and the span of which is told how well the model carries
    it there, in its best layer below the last; null: those that the model itself carries best."""
    write_site: str | None = None
    """A JSON file to write, for ``site`` and for the recipes of a grid: the variable, span and layer where the model carries a
    value best, and where it does not."""
    batch: Count = 256
    """Rows at a time (the results do not depend on it)."""


@dataclass
class FineTuningSettings:
    """Fine-tuning; null takes what the paper used for the task."""

    data: str | None = None
    """Local folder with the data; null loads it from the hub."""
    seeds: list[Annotated[int, Ge(0), Lt(2**32)]] = field(default_factory=lambda: [42])
    """A fine-tuning for each seed; the paper used 111, 222, 333, 444, 555."""
    epochs: AboveZero | None = None
    """Passes over the training rows."""
    learning_rate: AboveZero | None = None
    """Highest learning rate; it falls linearly to 0."""
    batch: Count | None = None
    """Rows of a batch."""
    length: Annotated[int, Ge(8)] | None = None
    """Most tokens of a sequence, special tokens included; null: the paper's, or as many as the model has positions for."""
    examples: Count | None = None
    """Training rows that are used, the same ones for every model and seed; null takes all."""
    limit: Count | None = None
    """How many rows of each scored split, spread evenly over it; null takes all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast. auto: bf16 on an accelerator, fp32 on the CPU."""
    save: str | None = None
    """Folder for the fine-tuned models, one folder a task and seed; null keeps none."""


@dataclass
class GlueSettings(FineTuningSettings):
    """GLUE, each task fine-tuned on its own. ``data`` is the folder that holds CoLA/, MNLI/, MRPC/, ... in GLUE's layout."""

    tasks: list[str] | None = None
    """The tasks, of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli; null takes all (of a folder: those it holds)."""


@dataclass
class NerSettings(FineTuningSettings):
    """Named-entity recognition on CoNLL-2003, or on column files like it. ``data`` holds train.txt and valid.txt."""


@dataclass
class SquadSettings(FineTuningSettings):
    """Question answering on SQuAD v1.1. ``data`` holds train-v1.1.json and dev-v1.1.json."""


@dataclass
class HarnessSettings:
    """Tasks of EleutherAI's lm-evaluation-harness (lm-eval), for decoders; the names are its own."""

    tasks: list[str] = field(default_factory=list)
    """Its tasks and groups, such as ``[lambada_openai, arc_easy]``, or those of your own in ``include_path``."""
    include_path: str | None = None
    """Folder with the .yaml files of tasks of your own; code that they name is run."""
    num_fewshot: CountOrNever | None = None
    """Solved examples before each; null takes what the task says."""
    limit: Count | None = None
    """How many examples of each task, the first ones; null takes all."""
    batch_size: Count = 16
    """Examples at a time."""
    apply_chat_template: bool = False
    """true asks through the tokenizer's chat template."""
    seed: int = 1234
    """Chooses the solved examples, and all else that a task draws."""


@dataclass
class AllSettings:
    """The whole suite, into one results file."""

    parts: list[str] = field(default_factory=lambda: ["perplexity", "interchange", "glue", "ner", "squad"])
    """Which kinds are measured."""
    perplexity: PerplexitySettings = field(default_factory=PerplexitySettings)
    classification: ClassificationSettings = field(default_factory=ClassificationSettings)
    interchange: InterchangeSettings = field(default_factory=InterchangeSettings)
    structure: StructureSettings = field(default_factory=StructureSettings)
    glue: GlueSettings = field(default_factory=GlueSettings)
    ner: NerSettings = field(default_factory=NerSettings)
    squad: SquadSettings = field(default_factory=SquadSettings)
