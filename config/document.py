"""YAML text to plain values that remember where they were written.

A narrow YAML on purpose: mappings with text keys, lists, and scalars of the YAML 1.2 core kind, so that `off`, `no`, 12:30 and 0600 stay
text. Tags, several documents, and anchors that blow up or loop are refused. Pure: bytes in, Document out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from config.errors import ConfigError, Problem

Path = tuple[str | int, ...]
"""Keys and list positions from the top of a document."""

MAX_BYTES = 1024 * 1024
"""Settings and policies are written by people; a larger file is a mistake."""
MAX_DEPTH = 32
MAX_NODES = 200_000
"""Values of a document after every alias is replaced by what it stands for."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})\.[0-9]{1,18}")


class Node:
    """One value. content: a scalar, or a list of nodes, or a dict of (key node, value node) by key. line and column are 1-based."""

    __slots__ = ("column", "content", "height", "line", "size")

    def __init__(self, line: int, column: int, content: Scalar | list[Node] | dict[str, tuple[Node, Node]]) -> None:
        self.line = line
        self.column = column
        self.content = content
        self.size = 1
        self.height = 0

    def adopt(self, child: Node) -> None:
        """Count a child that was added. INVARIANT: size and height take aliases for what they stand for."""
        self.size += child.size
        self.height = max(self.height, child.height + 1)

    def plain(self) -> object:
        """The value without places."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, (_, value) in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content


Scalar = str | int | float | bool | None


class Document:
    """A parsed file.

    file: its name for messages. problems: what is wrong with it that does not keep the rest from being checked.
    """

    __slots__ = ("file", "problems", "root")

    def __init__(self, file: str, root: Node, problems: tuple[Problem, ...]) -> None:
        self.file = file
        self.root = root
        self.problems = problems

    def place(self, path: Path, *, is_key: bool = False) -> tuple[int, int]:
        """Line and column of the value at path, or of its key; of the nearest value above it if there is none there."""
        node = self.root
        line, column = node.line, node.column
        for at, step in enumerate(path):
            if isinstance(node.content, dict) and isinstance(step, str) and step in node.content:
                key, value = node.content[step]
            elif isinstance(node.content, list) and isinstance(step, int) and step < len(node.content):
                key = value = node.content[step]
            else:
                break
            found = key if is_key and at == len(path) - 1 else value
            line, column, node = found.line, found.column, value
        return line, column

    def problem(self, path: Path, text: str, *, is_key: bool = False, is_warning: bool = False) -> Problem:
        """A problem at that place. List positions that are not in the document, since a single value stands for a list, are left out."""
        line, column = self.place(path, is_key=is_key)
        while path and isinstance(path[-1], int) and not self._has(path):
            path = path[:-1]
        return Problem(self.file, line, column, render_path(path), text, is_warning)

    def _has(self, path: Path) -> bool:
        content: object = self.root.content
        for step in path:
            if isinstance(content, dict) and step in content:
                content = content[step][1].content
            elif isinstance(content, list) and isinstance(step, int) and step < len(content):
                content = content[step].content
            else:
                return False
        return True


def render_path(path: Path) -> str:
    """The path as people write it, such as rules[3].match.kind."""
    words: list[str] = []
    for step in path:
        if isinstance(step, int):
            words.append(f"[{step}]")
        elif re.fullmatch(r"[\w-]+", step):
            words.append(f".{step}" if words else step)
        else:
            words.append(f"[{step[:60]!r}]")
    return "".join(words)


def parse_document(data: bytes, file: str, *, max_bytes: int = MAX_BYTES) -> Document:
    """Parse a YAML file.

    Raises ConfigError if it is too large, not UTF-8, not YAML, empty, too deep, or its aliases loop or blow up.
    """
    if len(data) > max_bytes:
        raise ConfigError([Problem(file, 0, 0, "", f"the file is larger than {max_bytes} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _count(data[: error.start].decode("utf-8-sig", "replace"))
        raise ConfigError([Problem(file, line, column, "", "the file is not UTF-8 text")]) from None
    composer = _Composer(file)
    try:
        root = composer.compose(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([Problem(file, line, column, "", f"not valid YAML: {words}")]) from None
    except yaml.reader.ReaderError as error:
        line, column = _count(text[: error.position])
        raise ConfigError([Problem(file, line, column, "", "a control character is not allowed here")]) from None
    if root is None:
        raise ConfigError([Problem(file, 1, 1, "", "the file is empty")])
    return Document(file, root, tuple(composer.problems))


def _count(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _Composer:
    """Builds nodes from the parser's events. Aliases share the node they refer to."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node | None] = {}
        self._documents = 0

    def compose(self, events: Iterator[yaml.Event]) -> Node | None:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise self._failure(event, "only one YAML document per file")
                root = self._node(next(events), events, (), 0)
        if root is not None and root.content is None and root.size == 1:
            return None
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._failure(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        line, column = _place(event)
        anchor: str | None = getattr(event, "anchor", None)
        tag: str | None = getattr(event, "tag", None)
        if tag is not None:
            self._note(
                line, column, path, "tags are not supported; remove the word that begins with an exclamation mark"
            )
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(line, column, _scalar(event.value) if event.style is None else event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(Node(line, column, []), events, path, depth)
        else:
            node = self._mapping(Node(line, column, {}), events, path, depth)
        if node.size > MAX_NODES:
            raise self._failure(event, f"more than {MAX_NODES} values, aliases included")
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        name = event.anchor or ""
        known = self._anchors.get(name)
        if known is None:
            raise self._failure(
                event,
                f"alias '{name}' stands {'inside its own anchor' if name in self._anchors else 'before its anchor'}",
            )
        if depth + known.height > MAX_DEPTH:
            raise self._failure(event, f"nested more than {MAX_DEPTH} levels deep")
        return known

    def _sequence(self, node: Node, events: Iterator[yaml.Event], path: Path, depth: int) -> Node:
        items: list[Node] = []
        node.content = items
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            item = self._node(event, events, (*path, len(items)), depth + 1)
            items.append(item)
            node.adopt(item)
        return node

    def _mapping(self, node: Node, events: Iterator[yaml.Event], path: Path, depth: int) -> Node:
        entries: dict[str, tuple[Node, Node]] = {}
        node.content = entries
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key_node = self._node(event, events, path, depth + 1)
            key = event.value if isinstance(event, yaml.ScalarEvent) else None
            value = self._node(next(events), events, (*path, key or "?"), depth + 1)
            node.adopt(value)
            line, column = _place(event)
            if key is None:
                self._note(line, column, path, "a key must be plain text")
            elif key in entries:
                self._note(line, column, (*path, key), f"this key is already set on line {entries[key][0].line}")
            else:
                entries[key] = (key_node, value)
        return node

    def _note(self, line: int, column: int, path: Path, text: str) -> None:
        self.problems.append(Problem(self.file, line, column, render_path(path), text))

    def _failure(self, event: yaml.Event, text: str) -> ConfigError:
        return ConfigError([*self.problems, Problem(self.file, *_place(event), "", text)])


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _scalar(text: str) -> Scalar:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
