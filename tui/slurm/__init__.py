"""Slurm's commands as names of our program, for fingers that know them and for tools that call them.

One module a command, thin, over `agent.api.client`; `argv` reads their options, `job`, `times` and `columns` write what
they print. Layouts, widths and sentences are those of Slurm 22.05, recorded in `tests/data/slurm`. Nothing heavy is
imported: a script may call `sbatch` a thousand times.
"""
