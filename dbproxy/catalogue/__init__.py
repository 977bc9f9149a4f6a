"""What is in a monitored database, and what a statement therefore really touches: model, reader, resolution, refresh. See docs/catalogue.md."""
