"""Data sets: generated scenes, image folders and the manifests that describe them."""
