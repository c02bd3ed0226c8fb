"""Robustness on perturbed sets (paper Tables VI, X, XVI and part of XIV; paper/protocol.md, section 5)."""
