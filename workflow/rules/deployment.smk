# Where jobs find the software: in the environment in which Snakemake was started. With `--software-deployment-method`, in a
# conda environment (envs/conda.yaml) or a container (envs/Dockerfile). Create these by hand: Snakemake copies
# envs/conda.yaml, and conda would not find the lock file beside the copy.
import os

from snakemake.settings.types import DeploymentMethod

METHODS = workflow.deployment_settings.deployment_method

for one in workflow.rules:
    # Otherwise Snakemake would ask conda about the environment after each job.
    if DeploymentMethod.CONDA in METHODS:
        one.conda_env = os.environ.get("LSKA_CONDA_ENV", "lska")
    if DeploymentMethod.APPTAINER in METHODS:
        one.container_img = os.environ.get("LSKA_CONTAINER", "lska.sif")
