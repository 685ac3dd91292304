"""Random draws as functions of a key, never of global state.

Every draw of a run is keyed by what it is for and where in the run it happens, ``(name, seed, micro-batch, rank)``, so a
resumed run, another batch size of an evaluation, or code that draws in between changes nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Key = int | str


def hashed(*key: Key) -> int:
    """A key as a 63-bit seed; equal keys give equal seeds on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device``, seeded by ``key``. Seeding happens on the host: no synchronisation."""
    return torch.Generator(device=device).manual_seed(hashed(*key))


def host_random(*key: Key) -> random.Random:
    """A Python generator seeded by ``key``, for draws that steer the host (such as the aligned pair)."""
    return random.Random(hashed(*key))


@contextmanager
def keyed_dropout(*key: Key, device: torch.device) -> Iterator[None]:
    """Dropout inside is a function of ``key``; the caller's global random state is untouched.

    ``nn.Dropout`` and scaled-dot-product attention take no generator, so the global one of ``device`` is seeded and put back.
    """
    seed = hashed(*key)
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            torch.get_device_module(device).manual_seed(seed)
            yield
