"""Evaluation: from weights to metric files."""
