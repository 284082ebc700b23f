"""How the jobs of a multirun are launched: together on a GPU, in processes of one machine, on a Slurm cluster."""
