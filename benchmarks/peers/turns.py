"""The sides of a case, each in a process of its own, taking turns: one step of each in a round, in an order that rotates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import resident
from benchmarks.peers.cases import SIDES, Case
from benchmarks.peers.environments import HERE, NotInstalled, python_of, variables_of
from benchmarks.talk import Silence, Talker

Told = dict[str, Any]


class Failed(Exception):
    """Why a side could not do its work."""


class SideProcess:
    """A side that is imported when it is made, and waits for its turns once it is built."""

    def __init__(self, name: str, settings: Told, environments: Path) -> None:
        side = SIDES[name]
        self.errors = environments / "logs" / f"{name}.txt"
        self.errors.parent.mkdir(parents=True, exist_ok=True)
        command = [python_of(side, environments), HERE / "sides" / "serve.py", side.module, json.dumps(settings)]
        self.talker = Talker(command, environment=variables_of(side, settings["threads"]), errors=self.errors)

    def build(self) -> None:
        """Wait until its libraries are imported, and have it build its models."""
        try:
            self.talker.answer()
        except Silence as error:
            raise self._failed() from error
        self.before = resident("VmRSS", self.talker.process.pid)
        self.ask("build")
        Path(f"/proc/{self.talker.process.pid}/clear_refs").write_text("5")  # forgets the peak so far

    def ask(self, *what: Any) -> Any:
        """The answer to a request; Failed with the process's last words where it has ended."""
        try:
            return json.loads(self.talker.ask(json.dumps(what)))
        except Silence as error:
            raise self._failed() from error

    def peak_bytes(self) -> int:
        """At most since the models were built, beyond what the process held before it had models."""
        return resident("VmHWM", self.talker.process.pid) - self.before

    def _failed(self) -> Failed:
        self.talker.stop()
        lines = [line.strip() for line in self.errors.read_text(encoding="utf-8").splitlines() if line.strip()]
        return Failed(lines[-1] if lines else "it ended without a word")


def measure(case: Case, names: list[str], options: Told, environments: Path, *, warmup: int, rounds: int) -> dict[str, Told]:
    """What each of the sides took in every round, with the values of its first step; or why it could not take part."""
    results: dict[str, Told] = {}
    running: dict[str, SideProcess] = {}
    for name in names:
        side = SIDES[name]
        results[name] = {"title": side.title, "note": side.note, "steps": []}
        try:
            running[name] = SideProcess(name, case.settings(side, **options), environments)
        except NotInstalled as error:
            results[name]["missing"] = f"not installed: {error}"
    for name in [*running]:
        try:
            running[name].build()
        except Failed as error:
            results[name]["missing"] = f"failed: {error}"
            del running[name]
    for number in range(warmup + rounds):
        turn = number % max(1, len(running))
        for name in [*running][turn:] + [*running][:turn]:
            try:
                step = running[name].ask("step", number)
            except Failed as error:
                results[name]["missing"] = f"failed: {error}"
                del running[name]
                continue
            results[name].setdefault("first_values", step.pop("values"))
            if number >= warmup:
                results[name]["steps"].append(step)
    for name, process in running.items():
        results[name]["peak_bytes"] = process.peak_bytes()
        process.talker.stop()
    return results
