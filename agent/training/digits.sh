#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=10
#SBATCH --output=digits-%j.out

# Trains a small CNN on scikit-learn's handwritten digits; see digits.py beside this file. The same file serves Stoker
# and Slurm. Activate an environment that has the project and its `train` extra first: the job inherits its PATH.

set -euo pipefail
# One thread: the tensors are tiny, and on busy cores two that wait for each other were 20 times slower.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# -I: nothing in the folder the job was submitted from can stand in for a module. -u: the log is live.
exec python3 -I -u -m agent.training.digits "$@"
