"""The machine: devices, precision, processes and CPU threads."""
