"""Torch code that Stoker ships: it runs only in processes of its own and is imported by no other part.

The only place for torch. Training is launched by its #SBATCH script here and keeps the file contract of a job folder
(`jobdir`), so that it runs the same under Stoker, under Slurm and by hand. `selftest` is started by the self-test.
"""
