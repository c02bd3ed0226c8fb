"""Checkpoints of a scale and where they come from: trained here, or published in DVC. Imports nothing heavy."""
