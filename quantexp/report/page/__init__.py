"""The report page: one file with table, plots and details of cells, which needs nothing else."""
