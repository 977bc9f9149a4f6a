"""The SQL of a mysql-test script (*.test, *.inc): what mysqltest would send, without its own commands.

Statements with a $variable are left out, for only a run of the script knows what they say. Follows mysqltest's reader: quotes hide the
delimiter, lines that begin with -- are its own commands, DELIMITER changes what ends a statement, perl and files end at EOF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_OWN = re.compile(
    rb"""(?:append_file|assert|cat_file|change_user|character_set|chmod|connect|connection|copy_files?(?:_wildcard)?|dec|diff_files
    |die|dirty_close|disable_\w+|disconnect|echo|enable_\w+|end|end_timer|error|eval|evalp|exec|exec_in_background|execw|exit|file_exists|force-cpdir
    |force-rmdir|horizontal_results|if|inc|let|list_files(?:_append_file|_write_file)?|lowercase_result|mkdir|move_file|optimizer_trace|output
    |partially_sorted_result|perl|ping|query|query_attributes|query_horizontal|query_vertical|real_sleep|reap|remove_files?(?:_wildcard)?
    |replace_column|replace_numeric_round|replace_regex|replace_result|require|reset_connection|result|result_format|rmdir|save_master_pos
    |send|send_eval|send_quit|send_shutdown|shutdown_server|skip|sleep|sorted_result|source|start_timer|sync_slave_with_master|sync_with_master
    |system|vertical_results|wait_for_slave_to_stop|while|write_file|write_line)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_SENDS = re.compile(rb"(?:query|send|query_vertical|query_horizontal)\s+(?=\S)", re.IGNORECASE)
_HEREDOC = re.compile(rb"(?:--)?\s*(?:perl|write_file|append_file)\b([^\n]*)", re.IGNORECASE)
_DELIMITER = re.compile(rb"(?:--)?\s*delimiter\s+([^\n]+)", re.IGNORECASE)
_BLANK = re.compile(rb"\s+|#[^\n]*(?:\n|\Z)|[{}]")
_BLOCK = re.compile(rb"(?:if|while)\s*\(", re.IGNORECASE)


def split_script(text: bytes) -> Iterator[bytes]:
    """The statements, without their delimiter."""
    delimiter, at = b";", 0
    while True:
        while blank := _BLANK.match(text, at):
            at = blank.end()
        if at >= len(text):
            return
        line_end = text.find(b"\n", at)
        line_end = len(text) if line_end < 0 else line_end
        if found := _HEREDOC.match(text, at):
            words = found.group(1).replace(delimiter, b" ").split()
            mark = words[-1] if len(words) > 1 else b"EOF"
            end = re.compile(rb"^" + re.escape(mark) + rb"\s*$", re.MULTILINE).search(text, found.end())
            at = end.end() if end else line_end
        elif found := _DELIMITER.match(text, at):
            given = found.group(1).strip()
            delimiter = given.removesuffix(delimiter).strip() or given
            at = line_end
        elif text.startswith(b"--", at):
            at = line_end
        elif _BLOCK.match(text, at) and text.find(b"{", at) >= 0:
            at = text.find(b"{", at) + 1
        else:
            end = _end_of_statement(text, at, delimiter)
            statement = text[at:end].strip()
            at = end + len(delimiter)
            if prefix := _SENDS.match(statement):
                statement = statement[prefix.end() :]
            elif _OWN.match(statement):
                continue
            if statement and b"$" not in statement:
                yield statement


def _end_of_statement(text: bytes, at: int, delimiter: bytes) -> int:
    pattern = re.compile(
        rb"'(?:[^'\\]|\\.|'')*'"
        rb'|"(?:[^"\\]|\\.|"")*"'
        rb"|`[^`]*`|(?P<end>" + re.escape(delimiter) + rb")|\n[ \t]*#[^\n]*|--[ \t][^\n]*|/\*(?![!M]).*?\*/|.",
        re.DOTALL,
    )
    for found in pattern.finditer(text, at):
        if found.group("end"):
            return found.start()
    return len(text)
