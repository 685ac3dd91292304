"""What the user must change, as data: the field and the sentence about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from diito.secrets import redact


class Refusal(ValueError):
    """One thing that the user must change. ``str`` gives ``field: sentence``, or the sentence alone where no field is to blame.

    ``field``: what the user calls it, such as ``training.batch`` (a recipe's field), ``--length`` (a flag) or a file's name;
    ``sentence``: what is wrong with it and what would be right, without secrets.
    """

    def __init__(self, field: str, sentence: str) -> None:
        field, sentence = redact(field), redact(sentence)
        super().__init__(f"{field}: {sentence}" if field else sentence)
        self.field = field
        self.sentence = sentence

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        """Pickled by its parts, so that it can come back from another process."""
        return type(self), (self.field, self.sentence)

    def under(self, prefix: str) -> Refusal:
        """The same about a field that stands under ``prefix`` here: ``--`` on a command line, ``evaluation.`` in a recipe."""
        return Refusal(prefix + self.field, self.sentence)

    def at(self, field: str) -> Refusal:
        """The same about a field that has another name here."""
        return Refusal(field, self.sentence)


class Refusals(ValueError):
    """Several things that the user must change. ``str`` gives a line for each."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__("\n".join(map(str, refusals)))
        self.refusals = list(refusals)

    def __reduce__(self) -> tuple[type[Refusals], tuple[list[Refusal]]]:
        """Pickled by its parts, as :class:`Refusal`."""
        return type(self), (self.refusals,)

    def under(self, prefix: str) -> Refusals:
        """The same about fields that stand under ``prefix`` here."""
        return Refusals([each.under(prefix) for each in self.refusals])


@contextmanager
def collect() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Gathers what independent checks refuse, and raises all of it at the end: one :class:`Refusal`, or :class:`Refusals`.

    ``with collect() as attempt:`` gives ``attempt``; each check that depends on no other stands in a ``with attempt():`` of its
    own. One that stands outside of any, because the rest depends on it, ends the gathering where it refuses. A sentence that is
    said twice is given once.
    """
    refusals: list[Refusal] = []

    @contextmanager
    def attempt() -> Iterator[None]:
        try:
            yield
        except (Refusal, Refusals) as error:
            refusals.extend(refusals_of(error))

    with attempt():
        yield attempt
    refuse(refusals)


def refuse(refusals: Iterable[Refusal]) -> None:
    """Raise what there is to refuse, each sentence once: nothing, the one :class:`Refusal`, or :class:`Refusals`."""
    distinct = list({str(refusal): refusal for refusal in refusals}.values())
    if distinct:
        raise distinct[0] if len(distinct) == 1 else Refusals(distinct)


def refusals_of(error: Refusal | Refusals) -> list[Refusal]:
    """What an error refuses, one by one."""
    return error.refusals if isinstance(error, Refusals) else [error]
