#!/usr/bin/env bash
#SBATCH --job-name=nmtprune-recipe --nodes=1 --ntasks=1 --cpus-per-task=8 --gpus=1 --time=24:00:00 --signal=B:TERM@60
# A recipe as a job: sbatch [SBATCH OPTIONS] recipes/slurm.sh RECIPE [OPTIONS]. Submitted again, it goes on.
set -euo pipefail
[ $# -gt 0 ] || { echo "Error: name a recipe: sbatch recipes/slurm.sh RECIPE [OPTIONS]" >&2 && exit 2; }
recipe=$1
shift
# Slurm runs a copy of this file from elsewhere: the recipes are where the job was submitted.
folder=${SLURM_SUBMIT_DIR:-$PWD}/recipes
[ -x "$folder/$recipe/run.sh" ] || folder=$(cd "$(dirname "$0")" && pwd)
exec "$folder/$recipe/run.sh" --gpus "${SLURM_GPUS_ON_NODE:-0}" "$@"
