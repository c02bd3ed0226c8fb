"""A folder for Snakemake's search path: it finds logger plugins as packages of this name."""
