"""What a study measures of one model and one concept: the tables that its tests read."""
