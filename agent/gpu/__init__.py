"""Reading GPUs: the reader protocol, NVML, the simulated source, and the child process that samples."""
