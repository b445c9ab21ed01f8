"""Labels that repair themselves: votes, refinement of noisy labels, mining of unlabelled clips."""
