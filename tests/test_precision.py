"""A trajectory in bf16 stays near the one in fp32, and one on a GPU near the one on the CPU."""

import pytest
import torch
from models import SPECIAL_IDS, build, masked_batch, masking

from diito.method.alignment import Alignment
from diito.method.objective import DistillationObjective
from diito.method.positions import RULES
from diito.models.student import build_student

STEPS = 40
cuda = pytest.param("cuda", marks=pytest.mark.gpu)


def on_the_cpu(rule):
    """A rule or pairing that draws on the CPU, so that every device gets the same."""

    def draw(first, *rest):
        *arguments, generator = rest
        host = torch.Generator().manual_seed(generator.initial_seed())
        moved = [each.cpu() if isinstance(each, torch.Tensor) else each for each in (first, *arguments)]
        return rule(*moved, host).to(generator.device)

    return draw


def trajectory(device, *, bf16):
    """Losses of every step of a short training, and the student's weights at its end."""
    teacher = build(layers=4, seed=1, initializer_range=0.5)
    student = build_student(teacher, layers=2, dropout=0.0)
    teacher.to(device, torch.bfloat16 if bf16 else torch.float32)
    objective = DistillationObjective(
        student.to(device),
        teacher,
        Alignment.full(teacher_layers=4, student_layers=2),
        positions=on_the_cpu(RULES["consecutive"]),
        pairing=lambda rows, generator: torch.arange(rows, device=generator.device).roll(1),
        special_ids=SPECIAL_IDS,
    ).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, fused=True)
    losses = []
    for step in range(STEPS):
        batch = masked_batch(step, [12] * 6, *[[2, 5, 8]] * 6)
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            named = objective(batch, step=step)
        named["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([named[name].item() for name in ("task", "ce", "cos", "causal_ce", "loss")])
    return torch.tensor(losses, dtype=torch.float64), student.cpu().state_dict()


@pytest.mark.parametrize("device", ["cpu", cuda])
def test_bf16_follows_fp32(device):
    """Every loss at every step within a few per cent, and training moves the total loss much further than that."""
    precise, _ = trajectory(device, bf16=False)
    rounded, _ = trajectory(device, bf16=True)
    fall = (precise[:5].mean(0) - precise[-5:].mean(0))[-1]
    assert fall > 0.2
    assert ((rounded - precise).abs() / precise.abs().clamp(min=0.05)).max() < 0.1
    assert ((rounded - precise)[:, -1].abs()).max() < fall / 10


@pytest.mark.gpu
def test_cuda_follows_the_cpu():
    host, weights = trajectory("cpu", bf16=False)
    device, moved = trajectory("cuda", bf16=False)
    torch.testing.assert_close(device, host, rtol=1e-3, atol=1e-4)
    for name, expected in weights.items():
        torch.testing.assert_close(moved[name], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_a_whole_step_on_a_gpu_never_waits_for_it():
    """Masking, both models, all losses, backward and optimiser; dropout on."""
    teacher = build(layers=4, seed=1).cuda().bfloat16()
    student = build_student(build(layers=4, seed=1), layers=2, dropout=0.1).cuda()
    objective = DistillationObjective(student, teacher, Alignment.full(teacher_layers=4, student_layers=2)).train()
    mask = masking(0.15, pad_token_id=None)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)
    rows = {"input_ids": masked_batch(0, [16] * 4, [2], [3], [4], [5])["input_ids"].cuda()}
    draws = torch.Generator("cuda").manual_seed(0)

    def step(number):
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective(mask(rows, generator=draws), step=number)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
