"""The value of PostgreSQL's search_path, read as the server reads it."""

from __future__ import annotations


def parse_search_path(value: str, role: str) -> tuple[str, ...] | None:
    """Schemas in a search_path setting, folded as the server does; "$user" becomes the role. None if it makes no sense."""
    schemas: list[str] = []
    position = 0
    while position < len(value):
        if value[position] in ", \t\n":
            position += 1
        elif value[position] == '"':
            name = ""
            position += 1
            while position < len(value):
                end = value.find('"', position)
                if end < 0:
                    return None
                name += value[position:end]
                position = end + 1
                if value[position : position + 1] != '"':
                    break
                name += '"'
                position += 1
            schemas.append(name)
        else:
            comma = value.find(",", position)
            end = comma if comma >= 0 else len(value)
            schemas.append(value[position:end].strip().lower())
            position = end
    return tuple(role if name == "$user" else name for name in schemas if name)
