"""What Snakemake asks, and what is asked of it: products, resources, the plan with its estimate, supervision."""
