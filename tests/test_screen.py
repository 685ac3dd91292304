"""The screen of a run: the live table, the bar, and lines where there is no terminal."""

import importlib.util
import io
import sys

from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from diito.progress import bar, bars
from diito.training.live import LiveTable, shortened, sparkline
from diito.training.progress import Progress

LOGS = {"loss": 1.5, "ce": 2.25, "tokens_per_second": 1234.0, "learning_rate": 0.1}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_a_terminal(monkeypatch):
    """Not as a fixture: pytest puts its own stderr in place after those."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def shown(tmp_path):
    """Two steps of four, one of them logged and measured."""
    progress, state = Progress(["ce"], ["iia"]), TrainerState(global_step=0, max_steps=4)
    rest = TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl()
    progress.on_train_begin(*rest)
    for state.global_step in (1, 2):
        progress.on_step_end(*rest)
    progress.on_log(*rest, logs=LOGS)
    progress.on_log(*rest, logs={"eval_iia": 0.5})
    progress.close()


def test_the_live_table_on_a_terminal(monkeypatch, tmp_path):
    terminal = on_a_terminal(monkeypatch)
    shown(tmp_path)
    text = terminal.getvalue()
    assert "step 2/4  held-out: iia 0.5" in text and "step 2/4  0:00 so far, 0:00 left" in text
    assert all(part in text for part in ("ce", "2.250", "1.500", "1,234", "held-out iia", "memory", "GiB"))
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"


def test_a_bar_where_rich_is_not_installed(monkeypatch, tmp_path):
    terminal = on_a_terminal(monkeypatch)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "rich" else found(name, *rest))
    shown(tmp_path)
    assert "2/4" in terminal.getvalue() and "ce 2.250  loss 1.500  1,234 tokens/s" in terminal.getvalue()


def test_lines_where_there_is_no_terminal(capsys, tmp_path):
    shown(tmp_path)
    error = capsys.readouterr().err
    assert error == "step 2/4  ce 2.250  loss 1.500  1,234 tokens/s\nstep 2/4  held-out: iia 0.5\n"


def test_what_a_user_wrote_is_no_markup(tmp_path):
    file = io.StringIO()
    table = LiveTable(["[red]own"], [], step=0, steps=1, console=Console(file=file, force_terminal=True, width=80))
    table.numbers({"[red]own": 1.0})
    table.say("[bold]as it is")
    table.close()
    assert "[red]own" in file.getvalue() and "[bold]as it is" in file.getvalue()


def test_a_course_in_blocks():
    assert sparkline([0.0, 1.0, 7.0]) == "▁▂█" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([*range(8), *range(8)][::-1], width=2) == "▁▁"  # means of halves that are alike
    values: list[float] = []
    for number in range(5000):
        values = shortened([*values, float(number)])
    assert len(values) <= 512 and values == sorted(values)


def test_bars_are_shown_to_commands_alone(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    assert list(bar([1, 2], "looking", "rows")) == [1, 2] and not terminal.getvalue()
    with bars():
        assert list(bar([1, 2], "looking", "rows")) == [1, 2]
    assert "looking: 100%" in terminal.getvalue()
