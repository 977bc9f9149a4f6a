"""Policies: from rules and effects to one decision with its reasons."""
