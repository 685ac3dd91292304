"""Memory that losses over a large vocabulary take in a step: heads in parts, run again in the backward pass, or all at once.

``python -m benchmarks.vocabulary`` distils one micro-batch of 8 × 512 tokens with all four sets of logits of 128,000 words, in
a process of its own for each side, and prints what the step keeps between its forward and its backward pass, and its peak. The
models are narrow, so that nearly all of it is logits. ``--sides parts`` leaves out the whole, which takes four times more.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time

import torch


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since the last :func:`forget_peak`."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1000


def forget_peak() -> None:
    """Let VmHWM begin at VmRSS again."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def measure(side: str, rows: int, tokens: int, words: int) -> str:
    """One step of a side; a line of figures."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import diito
    from diito.method import recompute
    from diito.tasks.causal_lm import CausalLM, NextTokens

    if side == "whole":
        recompute.WHOLE = sys.maxsize
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=words, max_position_embeddings=tokens, **sizes))
    student = diito.build_student(teacher, layers=1)
    objective = diito.DistillationObjective(
        student, teacher, diito.Alignment.full(2, 1), reach=CausalLM().reach, special_ids=[]
    )
    ids = torch.randint(words, (rows, tokens), generator=torch.Generator().manual_seed(1))
    batch = NextTokens(0).batch({"input_ids": ids}, generator=torch.Generator())
    ctypes.CDLL(None).malloc_trim(0)  # what making the models freed
    forget_peak()
    before, began = resident("VmRSS"), time.perf_counter()
    losses = objective(batch, step=0)
    kept, middle = resident("VmRSS") - before, time.perf_counter()
    losses["loss"].backward()
    ended = time.perf_counter()
    return (
        f"{side:<6} kept {kept:8,.0f} MB  peak {resident('VmHWM') - before:8,.0f} MB  forward {middle - began:6.1f} s  "
        f"backward {ended - middle:6.1f} s  loss {losses['loss'].item():.6f}"
    )


def main() -> None:
    """Run each side in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", nargs="+", choices=("parts", "whole"), default=["parts", "whole"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--words", type=int, default=128_000)
    parser.add_argument("--here", action="store_true", help="measure the one side in this process")
    arguments = parser.parse_args()
    sizes = [arguments.rows, arguments.tokens, arguments.words]
    if arguments.here:
        print(measure(arguments.sides[0], *sizes), flush=True)
        return
    names = ("--rows", "--tokens", "--words")
    flags = [text for name, size in zip(names, sizes, strict=True) for text in (name, str(size))]
    for side in arguments.sides:
        subprocess.run([sys.executable, "-m", "benchmarks.vocabulary", "--here", "--sides", side, *flags], check=True)


if __name__ == "__main__":
    main()
