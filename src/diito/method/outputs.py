"""How many outputs models have, and how many of a student's and a teacher's can be compared."""

from __future__ import annotations

from transformers import PreTrainedModel

from diito.method.runs import Teacher
from diito.refusal import Refusal


def count_outputs(model: PreTrainedModel) -> int:
    """Number of logits: the words of a language model, the labels of a classifier."""
    output = model.get_output_embeddings()
    return int(model.config.num_labels) if output is None else len(output.weight)


def shared_words(student: PreTrainedModel, teacher: PreTrainedModel | Teacher, words: int | None) -> int | None:
    """How many logits can be compared. Raises Refusal where their numbers differ and nothing says how far."""
    if not isinstance(teacher, PreTrainedModel):
        return words
    sizes = (count_outputs(student), count_outputs(teacher))
    if sizes[0] != sizes[1] and teacher.get_output_embeddings() is None:
        raise Refusal("teacher.model", f"its {sizes[1]} labels differ in number from the student's {sizes[0]}")
    if words is None and sizes[0] != sizes[1]:
        raise Refusal(
            "teacher.model",
            f"its vocabulary of {sizes[1]} differs from the student's of {sizes[0]}; where the tokenizer is the "
            "same and only the padding of the vocabulary differs, give words=len(tokenizer)",
        )
    if words is not None and words > min(sizes):
        raise Refusal("words", f"{words} must be at most the smaller vocabulary, {min(sizes)}")
    return words or sizes[0]
