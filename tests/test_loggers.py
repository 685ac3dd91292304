"""``training.report_to``: numbers as Trainer gives them, and the map that an alignment is chosen from as a picture."""

from types import SimpleNamespace

import pytest
import tiny
from test_learned_alignment import LEARNED
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from diito.method.alignment import Alignment
from diito.run.learned import show_maps
from diito.training.callbacks import LearnedAlignment

MAP = [{"student": [0], "teacher": [layer], "unswapped": {"iia": 0.5}} for layer in range(2)]


def at_work(kind, **parts):
    """A logger that has been set up, without its package; what it is given is noted."""
    logger = kind.__new__(kind)
    vars(logger).update(_initialized=True, **parts)
    return logger


def test_each_logger_gets_the_map():
    given = []
    writer = SimpleNamespace(add_figure=lambda name, figure, step: given.append((name, figure, step)))
    wandb = SimpleNamespace(Image=lambda figure: figure, log=lambda logs: given.append(tuple(logs.items())))
    mlflow = SimpleNamespace(log_figure=lambda figure, name: given.append((figure, name)))
    loggers = [at_work(TensorBoardCallback, tb_writer=writer), at_work(WandbCallback, _wandb=wandb)]
    loggers.append(at_work(MLflowCallback, _ml_flow=mlflow, _auto_end_run=False))
    learned = LearnedAlignment(2, Alignment.full(4, 2), lambda student, present: (present, {}, MAP))
    show_maps(learned, loggers)
    learned.show(MAP, 4)
    (name, figure, step), ((_, image), (_, global_step)), (artifact, file) = given
    assert (name, step, global_step, file) == ("map", 4, 4, "map-4.png")
    assert all(each.get_suptitle() == "step 4" for each in (figure, image, artifact))


@pytest.mark.soak
def test_tensorboard_shows_every_number_and_the_map(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = {**LEARNED, "training.steps": "3", "training.report_to": "[tensorboard]", "training.evaluate_every": "2"}
    run = tiny.run(tmp_path, overrides)
    (folder,) = (run / "checkpoints" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Images("map")] == [2]
    logged = set(events.Tags()["scalars"])
    for line in tiny.metrics(run):
        for name, value in line.items():
            if isinstance(value, float) and name != "epoch":
                tag = name.replace("eval_", "eval/", 1) if name.startswith("eval_") else f"train/{name}"
                assert tag in logged and value == pytest.approx(
                    next(event.value for event in events.Scalars(tag) if event.step == line["step"])
                )
