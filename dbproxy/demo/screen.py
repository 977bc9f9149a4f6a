"""What the demo shows: steps, commands with their real output, and claims that hold or do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.rule import Rule
from rich.text import Text


class Screen:
    """Prints the tour and counts the claims."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("preparing")
        self._step = 0
        self.held = 0
        self.failed: list[str] = []

    @contextmanager
    def working(self) -> Iterator[None]:
        """A spinner while the stage is being set, until stop_working(); say() names what is being done."""
        self._status.start()
        try:
            yield
        finally:
            self._status.stop()

    def stop_working(self) -> None:
        self._status.stop()

    def say(self, what: str) -> None:
        """One line of progress: replaced by the next on a terminal, kept in a file."""
        self._status.update(what)
        if not self._console.is_terminal:
            self.note(what)

    def step(self, title: str) -> None:
        self._step += 1
        self._console.print()
        self._console.print(Rule(Text(f"{self._step}. {title}", style="bold"), align="left", style="dim"))

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def problem(self, text: str) -> None:
        """Why the tour cannot go on."""
        self._console.print(Text(f"demo: {text}", style="bold red"), soft_wrap=True)

    def command(self, command: str) -> None:
        """A command as a person would type it."""
        self._console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), soft_wrap=True)

    def output(self, text: str) -> None:
        """What a command printed, as it was."""
        for line in text.rstrip("\n").split("\n"):
            style = (
                "red"
                if line.startswith(("ERROR", "DETAIL", "HINT", "TAMPERED", "psql: error"))
                else "yellow"
                if line.startswith("NOTICE")
                else ""
            )
            self._console.print(Text("  " + line, style=style), soft_wrap=True)

    def claim(self, what: str, is_true: bool) -> None:  # noqa: FBT001  # a claim is a sentence and whether it holds
        """Show a claim with what checking it gave."""
        if is_true:
            self.held += 1
        else:
            self.failed.append(what)
        mark, style = ("✓", "green") if is_true else ("✗", "bold red")
        self._console.print(Text.assemble((f"  {mark} ", style), (what, "" if is_true else "bold red")), soft_wrap=True)

    def result(self) -> None:
        """The last line of the tour."""
        self._console.print()
        if self.failed:
            self._console.print(
                Text(f"{len(self.failed)} of {len(self.failed) + self.held} claims do not hold:", style="bold red")
            )
            for what in self.failed:
                self._console.print(Text(f"  ✗ {what}", style="red"), soft_wrap=True)
        else:
            self._console.print(Text(f"All {self.held} claims were checked and hold.", style="bold green"))
