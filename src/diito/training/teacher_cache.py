"""A teacher's answers on disk, micro-batch by micro-batch: what ``diito cache`` writes and ``teacher.cache`` reads.

An answer is the state that the head reads at each loss slot, bit for bit; the head is run anew, so that a token costs as many
bytes as a state is wide and not as there are words. Of a head that reads whole sequences the logits are kept too.

``rank-0.json`` says what decides the answers, and holds the checksums of the shards ``rank-0-00000.safetensors``, ..., each
with the same number of micro-batches; a process of several has files of its own rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diito.files import first_difference, read_json, sha256, write_json, written_aside
from diito.method.alignment import AlignedPair
from diito.method.swaps import Swap
from diito.refusal import Refusal

FIELD = "teacher.cache"
FORMAT = 1
_SHARD_BYTES = 1 << 26
_RUNS = "objective.weights"
"""By this field ``decides`` says which runs are answered: a run may need fewer than there are."""
Answers = dict[str, Tensor]
"""Of one micro-batch: ``slots`` Int[batch slots]; ``base``, ``swapped.0``, ``swapped.1``, ...: the states Float[used width] at
the used slots of each run; ``base.logits``, ... the logits; ``base.asked``, ... the fingerprints of what was asked."""


class TeacherCache:
    """The answers to one process of a run. ``decides``: what they depend on, by the field of a recipe that says it."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.index = folder / f"rank-{rank}.json"
        self._open: tuple[str, Any] | None = None
        self._keys: list[str] = []
        self._content: dict[str, Any] = {}

    @property
    def content(self) -> dict[str, Any]:
        """The index; empty where there is none."""
        if not self._content:
            try:
                self._content = read_json(self.index)
            except ValueError as error:
                raise Refusal(
                    FIELD, f"{self.index} is damaged; delete {self.folder} and make it again with diito cache"
                ) from error
        return self._content

    def check(self, decides: Mapping[str, Any], micro_batches: int) -> None:
        """Refuse a cache that was made for anything else than ``decides``, is too short, or is not whole."""
        again = "make one for this recipe with diito cache"
        if not self.content:
            raise Refusal(FIELD, f"{self.folder} holds no answers of a teacher for process {self.rank}; {again}")
        self.refuse_another(decides, again)
        if self.content["micro_batches"] < micro_batches:
            there = self.content["micro_batches"]
            raise Refusal(FIELD, f"{self.folder} has {there:,} micro-batches of {micro_batches:,} that this run needs; {again}")
        difference = first_difference(self.folder, self.content["checksums"])
        if difference:
            raise Refusal(FIELD, f"{self.folder} is damaged: {difference}; diito cache makes what is missing again")

    def refuse_another(self, decides: Mapping[str, Any], remedy: str) -> None:
        """Refuse, naming the first field, a cache that was made for anything else."""
        if self.content["format"] != FORMAT:
            raise Refusal(FIELD, f"{self.folder} was written by another version of diito; {remedy}")
        made_for = self.content["decides"]
        for key in made_for | dict(decides):
            before, now = made_for.get(key), decides.get(key)
            if before != now and not (key == _RUNS and set(now or ()) <= set(before or ())):
                values = f"{before}, not {now}" if len(f"{before}{now}") < 200 else "something else"
                raise Refusal(key, f"the answers in {self.folder} (teacher.cache) were made for {values}; {remedy}")

    def read(self, step: int) -> Answers:
        """The answers to micro-batch ``step``, on the host."""
        name = self.shard(step // self.content["per_shard"])
        if self._open is None or self._open[0] != name:
            self._open = (name, safe_open(self.folder / name, framework="pt"))
            self._keys = list(self._open[1].keys())
        shard, prefix = self._open[1], f"{step}."
        return {key.removeprefix(prefix): shard.get_tensor(key) for key in self._keys if key.startswith(prefix)}

    def writer(self, decides: Mapping[str, Any], micro_batches: int) -> Writer:
        """What writes those of ``micro_batches`` that are missing. Raises Refusal for a cache of something else."""
        if self.content:
            self.refuse_another(decides, "give another folder, or delete this one")
        self.folder.mkdir(parents=True, exist_ok=True)
        return Writer(self, decides, micro_batches)

    def shard(self, number: int) -> str:
        """The name of a shard's file."""
        return f"rank-{self.rank}-{number:05}.safetensors"


class Writer:
    """Writes answers in the order of the micro-batches; what is in sound shards already is not asked for again.

    A shard that is not full, the last of a shorter run, is written anew where more micro-batches are wanted.
    """

    def __init__(self, cache: TeacherCache, decides: Mapping[str, Any], wanted: int) -> None:
        self.cache = cache
        self.content = cache.content or {
            "format": FORMAT,
            "decides": dict(decides),
            "per_shard": None,
            "micro_batches": 0,
            "bytes": 0,
            "checksums": {},
        }
        sums, of_a_shard = self.content["checksums"], self.content["per_shard"] or 1
        sound = 0
        while (name := cache.shard(sound)) in sums and first_difference(cache.folder, {name: sums[name]}) is None:
            sound += 1
        there = min(self.content["micro_batches"], sound * of_a_shard)
        if there < wanted:
            there -= there % of_a_shard
        for name in list(sums)[-(-there // of_a_shard) :]:
            del sums[name]
        self.content["micro_batches"] = there
        self._pending: dict[int, Answers] = {}

    @property
    def next_step(self) -> int:
        """The first micro-batch that is not on disk."""
        return self.content["micro_batches"]

    def add(self, step: int, answers: Answers) -> None:
        """The answers to the next micro-batch."""
        assert step == self.next_step + len(self._pending)
        self._pending[step] = answers
        if self.content["per_shard"] is None:
            size = sum(tensor.nbytes for tensor in answers.values())
            self.content["per_shard"] = max(1, _SHARD_BYTES // max(1, size))
        if len(self._pending) == self.content["per_shard"]:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard."""
        if not self._pending:
            return
        name = self.cache.shard(self.next_step // self.content["per_shard"])
        tensors = {f"{step}.{key}": tensor for step, answers in self._pending.items() for key, tensor in answers.items()}
        with written_aside(self.cache.folder / name) as aside:
            save_file(tensors, aside)
        self.content["checksums"][name] = sha256(self.cache.folder / name)
        self.content["micro_batches"] += len(self._pending)
        self.content["bytes"] = sum((self.cache.folder / each).stat().st_size for each in self.content["checksums"])
        self._pending = {}
        write_json(self.cache.index, self.content)


def fingerprint(batch: Mapping[str, Tensor], pair: AlignedPair | None = None, swap: Swap | None = None) -> Tensor:
    """What was asked, as 16 bytes: the inputs of a micro-batch, and of a counterfactual run the layers and the swap."""
    digest = hashlib.blake2b(digest_size=16)
    tensors = {name: value for name, value in batch.items() if name not in ("labels", "slots")}
    if swap is not None and pair is not None:
        digest.update(repr((pair.teacher, pair.teacher_dimensions, swap.of_tokens)).encode())
        given = {"positions": swap.positions, "rows": swap.rows, "index": swap.index}
        tensors |= {f"swap {name}": value for name, value in given.items() if value is not None}
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
