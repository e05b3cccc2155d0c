"""SteerSeg: masks tracked over a video from a referring expression, steered by two learned soft prompts."""
