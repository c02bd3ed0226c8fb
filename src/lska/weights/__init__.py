"""Weights in DVC: which are published, and under which names."""
