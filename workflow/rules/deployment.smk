# Where jobs find the software: the environment that Snakemake was started in or, by `--software-deployment-method`, a
# conda environment (envs/conda.yaml) or a container (envs/Dockerfile) for every job. Both are made by hand before; conda
# would not find the lock beside the copy of envs/conda.yaml that Snakemake makes.
import os

from snakemake.settings.types import DeploymentMethod

METHODS = workflow.deployment_settings.deployment_method

for one in workflow.rules:
    # Otherwise Snakemake would ask conda about the environment after each job.
    if DeploymentMethod.CONDA in METHODS:
        one.conda_env = os.environ.get("LSKA_CONDA_ENV", "lska")
    if DeploymentMethod.APPTAINER in METHODS:
        one.container_img = os.environ.get("LSKA_CONTAINER", "lska.sif")
