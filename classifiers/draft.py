"""A report in the making: what the parts of a statement find, gathered before it is frozen. Mutable, used within one call only."""

from __future__ import annotations

from classifiers.effects import Effect, Kind, Report


class Draft:
    """Acts are kept per (kind, object, mode), in the order in which they were found."""

    __slots__ = ("acts", "cursors", "deallocates", "functions", "is_neutral", "prepares", "reason", "uses")

    def __init__(self) -> None:
        self.acts: dict[tuple[Kind, str, str], tuple[dict[str, None], set[str]]] = {}
        self.functions: dict[str, None] = {}
        self.prepares: list[tuple[str, Report]] = []
        self.cursors: list[tuple[str, Report]] = []
        self.uses: list[str] = []
        self.deallocates: list[str] = []
        self.is_neutral = True
        self.reason = ""

    def act(self, kind: Kind, name: str = "", mode: str = "", *flags: str) -> None:
        """Note one act; its flags join those noted before."""
        self.acts.setdefault((kind, name, mode), ({}, set()))[1].update(flags)

    def add_column(self, kind: Kind, name: str, mode: str, column: str) -> None:
        self.acts.setdefault((kind, name, mode), ({}, set()))[0][column] = None

    def merge(self, other: Draft) -> None:
        """Take over everything of another draft."""
        for (kind, name, mode), (columns, flags) in other.acts.items():
            mine = self.acts.setdefault((kind, name, mode), ({}, set()))
            mine[0].update(columns)
            mine[1].update(flags)
        self.functions.update(other.functions)
        self.prepares += other.prepares
        self.cursors += other.cursors
        self.uses += other.uses
        self.deallocates += other.deallocates
        self.is_neutral = self.is_neutral and other.is_neutral
        self.reason = self.reason or other.reason

    def freeze(self, command: str, statements: int, secret_spans: tuple[tuple[int, int], ...]) -> Report:
        effects = tuple(
            Effect(kind, name, mode, tuple(columns), frozenset(flags))
            for (kind, name, mode), (columns, flags) in self.acts.items()
        )
        return Report(
            effects=effects,
            command=command,
            statements=statements,
            functions=tuple(self.functions),
            prepares=tuple(self.prepares),
            cursors=tuple(self.cursors),
            uses=tuple(dict.fromkeys(self.uses)),
            deallocates=tuple(dict.fromkeys(self.deallocates)),
            is_neutral=self.is_neutral,
            secret_spans=secret_spans,
            reason=self.reason,
        )
