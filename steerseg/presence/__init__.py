"""Whether an expression is of anything in the video: signals of a proposal, and a look at what was found."""
