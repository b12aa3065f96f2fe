"""What a job finds on its PATH: `srun`, which starts its ranks, and Slurm's other names. Standard library only."""
