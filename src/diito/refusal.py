"""What the user must change, as data: the field and the sentence about it."""

from __future__ import annotations


class Refusal(ValueError):
    """One thing that the user must change. ``str`` gives ``field: sentence``, or the sentence alone where no field is to blame.

    ``field``: what the user calls it, such as ``training.batch`` (a recipe's field), ``--length`` (a flag) or a file's name;
    ``sentence``: what is wrong with it and what would be right.
    """

    def __init__(self, field: str, sentence: str) -> None:
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
