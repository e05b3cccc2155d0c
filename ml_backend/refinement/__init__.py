"""From corrections to better soft prompts: training, gate and prompt versions."""
