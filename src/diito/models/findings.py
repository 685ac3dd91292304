"""The command ``diito check``: what a checkpoint is, what is set right in it, and what stands against distilling it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, logging

from diito.corpus.framing import framing_of
from diito.models import load as models
from diito.models.layered import Layered, longest_sequence
from diito.models.load import ModelSource, noted
from diito.models.student import build_student
from diito.models.teacher import check_tokenizer
from diito.refusal import collect

_SPECIALS = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "mask_token", "unk_token")


def check(
    source: ModelSource, tokenizer: ModelSource | None, *, head: Any, noun: str, needed: Sequence[str], flags: Sequence[str]
) -> int:
    """Print what there is to say of the model; 0 where it can be distilled.

    ``tokenizer``: None takes the model's own. ``head``, ``noun``, ``needed``: of the task, as in ``models.teacher``;
    ``flags``: what tells ``diito distill`` to take the model. Raises Refusal, or Refusals, with everything that stands against
    it.
    """
    logging.disable_progress_bar()
    with collect() as attempt, noted() as notes:
        config = models.load_configuration(source, noun=noun)
        sizes = models.sizes_of(config, field=source.field)
        _line("family", f"{config.model_type} ({', '.join(config.architectures or ['no architecture named'])})")
        _line("size", f"{sizes.depth} layers, {sizes.width} wide, {sizes.words:,} words")
        with attempt():
            _check_tokenizer(tokenizer or source, config, sizes.words, needed)
        with attempt():
            models.check_trained(source, head, noun=noun)
            model = models.load_trained(source, head, noun=noun)
            _line("weights", f"{sum(each.numel() for each in model.parameters()):,}, all finite, each where the model has it")
            output = model.get_output_embeddings()
            tied = output is not None and output.weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
            _line("head", f"{noun}, its weights {'those of the embeddings' if tied else 'its own'}")
            layered = Layered(model, field=source.field)
            _line("runs", f"layer by layer, {layered.depth} of them, with the bits of its own forward")
            build_student(model, max(1, layered.depth // 2))
        longest = longest_sequence(config)
        _line("longest", "no limit of positions" if longest is None else f"{longest:,} tokens")
        for note in notes:
            _line("set right", note)
    _line("result", f"can be distilled: diito distill RECIPE {' '.join(flags)}")
    return 0


def _check_tokenizer(source: ModelSource, config: Any, words: int, needed: Sequence[str]) -> None:
    tokenizer: PreTrainedTokenizerBase = models.load_tokenizer(source, config=config)
    _line(
        "tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} words, ids up to {max(tokenizer.get_vocab().values()):,}"
    )
    specials = {name.removesuffix("_token"): getattr(tokenizer, name) for name in _SPECIALS}
    _line("specials", ", ".join(f"{name} {token}" for name, token in specials.items() if token is not None) or "none")
    check_tokenizer(tokenizer, source, vocabulary=words, field=source.field, needed=needed)
    framing = framing_of(tokenizer, field=source.field)
    around = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in (framing.before, framing.after)]
    _line("a text is", " ".join([*around[0], "…", *around[1]]))


def _line(title: str, text: str) -> None:
    print(f"{title:<11}{text}", flush=True)
