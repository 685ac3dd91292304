"""The switches of the recipe's ``speed``: what each puts in place, and that it leaves the rest alone."""

import os
import subprocess
import sys

import pytest
import tiny
import torch
from torch import nn

from diito.recipe.file import read
from diito.speed import precision as speed
from diito.speed.dropout import ATTENTION, FastDropout
from diito.speed.precision import choose_precision

PAGES = """
import resource, sys, torch
from diito.speed.process import keep_freed_memory
set_here = keep_freed_memory() if sys.argv[1] == "keep" else None

def work():
    tensors = [torch.ones(1 << 22) for _ in range(4)]
    return sum(tensor.sum() for tensor in tensors)

for _ in range(4):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(set_here, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(argument, **environment):
    """Whether the switch was set, and the pages that 5 rounds of 64 MB of tensors have the system map."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PAGES, argument]
    out = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout.split()
    return out[0], int(out[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's switch")
@pytest.mark.soak
def test_kept_memory_is_not_mapped_again():
    _, without = page_faults("leave")
    answer, kept = page_faults("keep")
    assert answer == "True"
    assert kept < without / 2  # an allocation in between may split the kept memory, so that it grows once more


@pytest.mark.soak
def test_an_allocator_that_the_user_has_set_stays():
    assert page_faults("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"


def test_precision_follows_the_device_unless_it_is_given(monkeypatch):
    cpu = torch.device("cpu")
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(speed, "_multiplies_bf16", lambda device, native=native: native)
        assert choose_precision("auto", cpu) == chosen
        assert [choose_precision(given, cpu) for given in ("fp32", "bf16")] == ["fp32", "bf16"]


@pytest.mark.parametrize("native", [True, False])
def test_a_run_notes_the_precision_that_was_chosen_and_keeps_it_when_resumed(native, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_multiplies_bf16", lambda device: native)
    run = tiny.run(tmp_path, {"speed.precision": "auto", "training.steps": "2"})
    chosen = "bf16" if native else "fp32"
    assert read(run / "recipe.yaml").speed.precision == chosen
    monkeypatch.setattr(speed, "_multiplies_bf16", lambda device: not native)
    assert tiny.distill(read(run / "recipe.yaml"), resume=True) == 0
    assert read(run / "recipe.yaml").speed.precision == chosen
    with pytest.raises(ValueError, match=r"speed\.precision: .* was started with (fp32|bf16), not (fp32|bf16)"):
        tiny.distill(tiny.recipe(tmp_path, {"speed.precision": "auto", "training.steps": "2"}), resume=True)


@pytest.mark.parametrize(
    ("switches", "fast"),
    [
        pytest.param({}, True, id="default"),
        pytest.param({"speed.fast_dropout": "false"}, False, id="off"),
        pytest.param({"speed.compile": "true"}, False, id="compiled", marks=pytest.mark.soak),
    ],
)
def test_fast_dropout_is_on_for_the_student_alone_unless_it_is_turned_off(switches, fast, tmp_path):
    parts, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, switches))
    student, teacher = parts.student, trainer.objective.teacher
    assert any(isinstance(module, FastDropout) for module in student.modules()) == fast
    assert any(type(module) is nn.Dropout for module in student.modules()) != fast
    assert (student.config._attn_implementation == ATTENTION) == fast
    assert not any(isinstance(module, FastDropout) for module in teacher.modules())
    assert teacher.config._attn_implementation == "sdpa"


@pytest.mark.soak
@pytest.mark.parametrize("layout", ["lines", "blocks"])
def test_a_compiled_run_is_the_run_and_has_room_for_all_its_variants(layout, tmp_path, monkeypatch):
    """Training, evaluation on the way, measuring at the end; what the graphs are compiled to is torch's affair."""
    wanted = {"corpus.layout": layout, "training.steps": "4", "training.evaluate_every": "2", "speed.fast_dropout": "false"}
    plain = tiny.metrics(tiny.run(tmp_path / "plain", wanted))
    compile_layer, compiled = nn.Module.compile, []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(nn.Module, "compile", lambda layer, **options: compile_layer(layer, backend=backend, **options))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=1):  # to be raised
        run = tiny.run(tmp_path / "compiled", {**wanted, "speed.compile": "true"})
    torch._dynamo.reset()
    assert compiled and (run / "student" / "model.safetensors").is_file()
    for ours, theirs in zip(tiny.metrics(run), plain, strict=True):
        assert ours["step"] == theirs["step"]
        assert {name: ours[name] for name in ("loss", "causal_ce") if name in ours} == pytest.approx(
            {name: theirs[name] for name in ("loss", "causal_ce") if name in theirs}, rel=1e-5
        )


def test_memory_is_kept_unless_it_is_turned_off(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("diito.run.distill.keep_freed_memory", lambda: asked.append(True))
    tiny.run(tmp_path / "off", {"speed.keep_memory": "false", "training.steps": "1"})
    assert asked == []
    tiny.run(tmp_path / "on", {"training.steps": "1"})
    assert asked == [True]
