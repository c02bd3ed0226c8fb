"""What Snakemake would run, why, and what it would cost: `lska plan`."""
