"""What Snakemake asks: the files of a target, what is current, what jobs need, and how long all of it takes."""
