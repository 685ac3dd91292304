"""Interchange-intervention accuracy of a model with a causal model: is a value carried by this layer at this span?

1. for each variable there are pairs of a base and a source whose values of it differ, with the answer that the causal model
   gives when the base's value is replaced by the source's;
2. the model runs the base with one layer's output at one span replaced by what it is for the source;
3. where the causal model's answer changes, it is counted how often the model gives the new one: the effective accuracy. A model
   that ignores the swap has 0; one that carries the value there, and nothing else that matters, has 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.method.intervention import resume, source_values
from diito.method.positions import matched_sources
from diito.models.answers import predicts_next
from diito.models.layered import Layered
from diito.models.modes import eval_mode
from diito.structured.folder import Generated, Question
from diito.structured.structure import Span

_AS_GOOD = 0.005
"""A difference that is none: two of 400 pairs."""


@dataclass(frozen=True)
class Site:
    """What a model does when one variable is swapped at one span of one layer."""

    variable: str
    carrier: str
    """The name of the span."""
    positions: list[int] | list[str]
    """Where it is: positions, or words."""
    layer: int
    pairs: int
    """Pairs whose right answer the swap changes."""
    effective_iia: float
    """The share of them in which the model gives that answer."""
    efficacy: float
    """The share of them in which the model gives another answer than without the swap."""
    new_pairs: int
    """Pairs among them whose swap makes a held-out combination."""
    effective_iia_new: float | None
    """The share of those in which the model gives the right answer; None where there is none."""

    def as_json(self) -> dict[str, object]:
        """The same as a mapping."""
        return asdict(self)


class Answering:
    """A model with what turns the words of generated data into its inputs, and its outputs into answers."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer, self.layered = model, tokenizer, Layered(model)
        self.reads_mask = self.layered.per_token and not predicts_next(model)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """The texts, which all have as many words, as the model reads them."""
        if not self.reads_mask:  # classifiers and decoders read what stands before the mask
            texts = [text.rpartition(" ")[0] for text in texts]
        ids = self.tokenizer(list(texts), add_special_tokens=False, return_tensors="pt")["input_ids"]
        return ids.to(self.model.device)  # type: ignore[no-any-return]

    def places(self, span: Span, ids: Tensor) -> Bool[Tensor, "rows tokens"]:
        """Where in the rows of ``ids`` the positions or words of a span are."""
        if isinstance(span[0], str):
            return torch.isin(ids, torch.tensor(self.tokenizer.convert_tokens_to_ids(list(span)), device=ids.device))
        here = torch.arange(ids.shape[1], device=ids.device)
        return torch.isin(here, torch.tensor(span, device=ids.device)).expand_as(ids)

    def answers(self, words: Sequence[str]) -> Tensor:
        """The outputs that mean these words."""
        if self.layered.per_token:
            numbers = self.tokenizer.convert_tokens_to_ids(list(words))
        else:
            numbers = [int(self.model.config.label2id[word]) for word in words]
        return torch.tensor(numbers, device=self.model.device)

    def best(self, final: Tensor, ids: Tensor) -> Tensor:
        """The answer, from the last layer's representation."""
        if self.layered.per_token:
            return self.layered.head(final[:, -1]).argmax(-1)
        return self.layered.head(final, {"input_ids": ids}).argmax(-1)


@torch.no_grad()
def all_sites(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generated: Generated, *, batch: int = 256
) -> list[Site]:
    """Every variable, span and layer of ``model``, which is in eval mode meanwhile."""
    answering = Answering(model, tokenizer)
    with eval_mode(model):
        return [
            site
            for variable, carriers in generated.variables.items()
            for site in _sites_of(answering, variable, carriers, generated.questions(variable), batch)
        ]


def _sites_of(
    answering: Answering, variable: str, carriers: Mapping[str, Span], asked: Sequence[Question], batch: int
) -> Iterator[Site]:
    asked = [question for question in asked if question.answer != question.unchanged]
    depth = answering.layered.depth
    right = torch.zeros(len(carriers), depth, len(asked), dtype=torch.bool)
    moved = torch.zeros_like(right)
    for start in range(0, len(asked), batch):
        part = slice(start, start + batch)
        base, source = (answering.ids([getattr(question, side) for question in asked[part]]) for side in ("base", "source"))
        wanted = answering.answers([question.answer for question in asked[part]])
        run, states = answering.layered.states({"input_ids": base}, range(depth))
        _, source_states = answering.layered.states({"input_ids": source}, range(depth))
        unchanged = answering.best(answering.layered.final(states[depth - 1]), base)
        for place, span in enumerate(carriers.values()):
            swapped = answering.places(span, base)
            index = matched_sources(swapped, answering.places(span, source))
            for layer in range(depth):
                values = {layer: source_values(source_states[layer], base.shape[1], index=index)}
                answer = answering.best(resume(answering.layered, run, states[layer], values, swapped), base)
                right[place, layer, part], moved[place, layer, part] = (answer == wanted).cpu(), (answer != unchanged).cpu()
    new = torch.tensor([question.new for question in asked], dtype=torch.bool)
    for place, (carrier, span) in enumerate(carriers.items()):
        for layer in range(depth):
            of_new = right[place, layer, new]
            yield Site(
                variable=variable,
                carrier=carrier,
                positions=list(span),  # type: ignore[arg-type]
                layer=layer,
                pairs=len(asked),
                effective_iia=float(right[place, layer].float().mean()),
                efficacy=float(moved[place, layer].float().mean()),
                new_pairs=len(of_new),
                effective_iia_new=float(of_new.float().mean()) if len(of_new) else None,
            )


def best_site(sites: Sequence[Site], *, depth: int) -> Site:
    """The site that a value is carried at: the highest effective accuracy below the last layer (above which nothing can move an
    answer elsewhere). Of equally good ones it is in the uppermost layer, where a span holds least of the words that the value
    was made of, and there the first."""
    below = [site for site in sites if site.layer < max(1, depth - 1)]
    highest = max(site.effective_iia for site in below)
    return max((site for site in below if site.effective_iia >= highest - _AS_GOOD), key=lambda site: site.layer)


def worst_layer(sites: Sequence[Site], best: Site) -> Site:
    """The layer at which the same span carries that variable least: a wrong alignment, by measurement."""
    same = [site for site in sites if (site.variable, site.carrier) == (best.variable, best.carrier)]
    return min(same, key=lambda site: site.effective_iia)


def other_site(sites: Sequence[Site], best: Site) -> Site | None:
    """At the same layer, where another variable is carried best among the spans that have no position of ``best``."""
    others = [
        site
        for site in sites
        if site.variable != best.variable and site.layer == best.layer and not set(site.positions) & set(best.positions)
    ]
    return max(others, key=lambda site: site.effective_iia, default=None)
