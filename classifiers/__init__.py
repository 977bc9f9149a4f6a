"""SQL text to what it does. Pure; sqlglot is the only dependency."""
