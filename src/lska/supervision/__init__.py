"""A watchdog for Snakemake on a cluster: `lska supervise snakemake ...`, with which nobody has to sit beside it.

It starts Snakemake again where that was killed or waits for jobs that are gone, and takes care of what Snakemake and
its plugin for Slurm do not see: an absent controller, preempted jobs, jobs and lock of a Snakemake that is dead.
"""
