"""Local learning coefficient, its refinements by weights and by data, and influence from the same chains."""
