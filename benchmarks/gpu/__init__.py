"""Time and memory of a proposal and of a refinement on a GPU, on random weights of full size."""
