"""A folder for Snakemake's search path: it finds logger plugins as packages of this name."""

VARIABLE = "LSKA_PLAN_JOBS"
"""Environment variable with the file that the plugin appends jobs to."""
