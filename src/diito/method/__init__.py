"""The method of the paper: interventions, alignments, losses and the objective. Knows no task by name and no trainer."""
