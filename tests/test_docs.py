"""The documents say what is there: vocabulary, commands, options, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from classifiers.effects import FLAGS, Kind
from dbproxy.audit.types import EventType
from dbproxy.cli.main import COMMANDS, build

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "docker/README.md", *ROOT.glob("docs/**/*.md")])
README = ROOT / "README.md"


def section(title: str) -> list[str]:
    """The words in the first column of the table under a heading of the vocabulary."""
    text = (ROOT / "docs/vocabulary.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Kinds", [kind.value for kind in Kind]),
        ("Flags", sorted(FLAGS)),
        ("Audit events", [each.value.decode() for each in EventType]),
    ],
)
def test_the_vocabulary_names_each_word_once_and_no_other(title: str, words: list[str]) -> None:
    assert sorted(section(title)) == sorted(words)


def commands_in(path: Path) -> Iterator[list[str]]:
    """Every dbproxy command that a document shows, in prose or at a prompt, without the word dbproxy."""
    text = path.read_text()
    fences = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    shown = [line[2:] for fence in fences for line in fence.splitlines() if line.startswith("$ ")]
    for each in [*shown, *re.findall(r"`(dbproxy [^`]+)`", prose)]:
        words = shlex.split(each, comments=True)
        for first, word in enumerate(words):
            # `docker compose exec dbproxy dbproxy …`: the service, then the program
            if word == "dbproxy" and words[first + 1 : first + 2] not in ([], ["dbproxy"]):
                end = next((i for i, other in enumerate(words) if i > first and other in ("&&", "|")), len(words))
                yield from alternatives(words[first + 1 : end])


def alternatives(words: list[str]) -> Iterator[list[str]]:
    """`user add|list` is two commands."""
    for index, word in enumerate(words):
        if "|" in word:
            for each in word.split("|"):
                yield from alternatives([*words[:index], each, *words[index + 1 :]])
            return
    yield words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_in_documents_exist(path: Path) -> None:
    for words in commands_in(path):
        command: Any = typer.main.get_command(build(COMMANDS))  # click's, or typer's own copy of it
        rest = list(words)
        while hasattr(command, "commands") and rest:
            assert rest[0] in command.commands, f"{path.name}: dbproxy {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        for word in rest:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in options, f"{path.name}: dbproxy {' '.join(words)}"


def test_readme_lists_every_command() -> None:
    assert {words[0] for words in commands_in(README)} >= set(COMMANDS)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README.read_text())) <= targets


def test_the_picture_shows_the_refusal_and_fetches_nothing() -> None:
    svg = (ROOT / "docs/pictures/drop-table.svg").read_text().replace("&#160;", " ")
    assert 'blocked by rule "no-prod-drop"' in svg.replace("&quot;", '"')
    assert "@font-face" not in svg
    assert "url(http" not in svg
