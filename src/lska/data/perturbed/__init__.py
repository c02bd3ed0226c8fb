"""Corrupted, rendered and otherwise shifted test sets of the robustness tables."""
