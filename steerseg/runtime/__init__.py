"""The machine: devices, memory, CUDA graphs, kernels, processes and files."""
