"""What is compared with what, and the goals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["masked-lm", "decoder", "classifier", "interchange"]


@dataclass(frozen=True)
class Side:
    """Somebody's way to do the work."""

    title: str
    module: str
    """In ``sides/``."""
    pins: str | None = None
    """Its environment: a file ``<pins>.txt`` beside this one. None: the environment that the command runs in."""
    causal: bool = False
    """Whether it does DIITO, where the case is standard distillation."""
    note: str = ""
    """What is different about its work."""


SIDES = {
    "diito": Side("diito", "ours"),
    "diito-full": Side("diito, DIITO FULL", "ours", causal=True, note="and causal_ce"),
    "plain": Side("a plain loop", "plain"),
    "modelopt": Side("ModelOpt", "with_modelopt", "distillation"),
    "torchdistill": Side("torchdistill", "with_torchdistill", "distillation"),
    "liger": Side("Liger", "with_liger", "distillation"),
    "trl-gkd": Side("TRL GKDTrainer", "with_trl_gkd", "distillation", note="no task loss"),
    "trl-distillation": Side("TRL DistillationTrainer", "with_trl_distillation", "distillation", note="no task loss"),
    "distillkit": Side("DistillKit", "with_distillkit", "distillkit"),
    "interchange": Side("diito.interchange", "our_interchange"),
    "hooks": Side("two forward hooks", "hooks"),
    "pyvene": Side("pyvene", "with_pyvene", "interventions"),
    "nnsight": Side("nnsight", "with_nnsight", "interventions"),
    "transformer-lens": Side("TransformerLens", "with_transformer_lens", "interventions"),
}


@dataclass(frozen=True)
class Goal:
    """Our cost against others'."""

    sentence: str
    measure: Literal["time", "memory"]
    over: tuple[str, ...]
    """The sides it is against: the best of them."""
    at_least: float | None = None
    """How many times our figure theirs is at least."""
    at_most: float | None = None
    """How many times theirs our figure is at most."""


@dataclass(frozen=True)
class Case:
    """Work that every side does alike."""

    title: str
    kind: Kind
    ours: str
    others: tuple[str, ...]
    reference: str
    """The side whose first values the others' are held against."""
    goals: tuple[Goal, ...]
    width: int
    words: int
    batch: int
    length: int
    teacher_layers: int = 12
    student_layers: int = 6
    temperature: float = 2.0

    def settings(self, side: Side, **options: Any) -> dict[str, Any]:
        """What the side's process is told, as JSON holds it."""
        names = ("kind", "width", "words", "batch", "length", "teacher_layers", "student_layers", "temperature")
        values = asdict(self)
        return {**{name: values[name] for name in names}, "causal": side.causal, **options}

    def smaller(self) -> Case:
        """The same with tiny sizes, to see whether every side runs and does the same work."""
        sizes = {"width": 64, "words": 1000, "batch": 2, "length": 16, "teacher_layers": 4, "student_layers": 2}
        return Case(**{**{name: getattr(self, name) for name in self.__dataclass_fields__}, **sizes})


MASKED_PEERS = ("plain", "modelopt", "torchdistill")
TRL = ("trl-gkd", "trl-distillation")
DECODER_PEERS = ("plain", "liger", "modelopt", *TRL, "distillkit")
INTERVENTION_PEERS = ("hooks", "pyvene", "nnsight", "transformer-lens")


def _masked(width: int, factor: float) -> Case:
    goal = Goal(f"≥ {factor:g} × the best peer", "time", MASKED_PEERS, at_least=factor)
    return Case(
        title=f"masked LM, BERT 12 → 6 × {width}, 8 × 128 tokens, 30,522 words, plain",
        kind="masked-lm",
        ours="diito",
        others=MASKED_PEERS,
        reference="plain",
        goals=(goal,),
        width=width,
        words=30_522,
        batch=8,
        length=128,
    )


_DECODER: dict[str, Any] = {
    "kind": "decoder",
    "reference": "plain",
    "width": 384,
    "words": 49_152,
    "batch": 8,
    "length": 256,
    "temperature": 1.0,  # TRL's GKDTrainer has no other in its loss
}
CASES = {
    "masked-256": _masked(256, 5.0),
    "masked-768": _masked(768, 2.5),
    "decoder": Case(
        title="decoder, Llama 12 → 6 × 384, 8 × 256 tokens, 49,152 words, plain",
        ours="diito",
        others=DECODER_PEERS,
        goals=(
            Goal("≥ 2 × the plain loop", "time", ("plain",), at_least=2.0),
            Goal("≥ 2.5 × TRL", "time", TRL, at_least=2.5),
            Goal("peak memory ≤ 1/3 of the plain loop", "memory", ("plain",), at_most=1 / 3),
        ),
        **_DECODER,
    ),
    "decoder-full": Case(
        title="the same with DIITO FULL",
        ours="diito-full",
        others=("diito",),
        goals=(Goal("≤ 1.5 × our own plain step", "time", ("diito",), at_most=1.5),),
        **{**_DECODER, "reference": "diito"},
    ),
    "classifier": Case(
        title="classifier, BERT 12 → 6 × 256, 32 × 64 tokens, 30,522 words, plain",
        kind="classifier",
        ours="diito",
        others=("plain", "torchdistill"),
        reference="plain",
        goals=(Goal("ahead of torchdistill and a plain loop", "time", ("plain", "torchdistill"), at_least=1.0),),
        width=256,
        words=30_522,
        batch=32,
        length=64,
    ),
    "interchange": Case(
        title="interchange, forward only, GPT-2 12 × 256, 8 × 128 tokens, 50,257 words",
        kind="interchange",
        ours="interchange",
        others=INTERVENTION_PEERS,
        reference="hooks",
        goals=(Goal("ahead of pyvene, nnsight and TransformerLens", "time", INTERVENTION_PEERS[1:], at_least=1.0),),
        width=256,
        words=50_257,
        batch=8,
        length=128,
    ),
}
