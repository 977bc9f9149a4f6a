"""Who may log in, and what opens the server connection."""
