"""What corrections are worth: a simulated annotator works, prompts are refined, held-out tasks are measured."""
