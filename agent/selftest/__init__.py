"""The acceptance test of the hardware: `stoker-agent selftest`. docs/selftest.md shows a run."""
