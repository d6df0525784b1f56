"""The corridor: from a recipe to a plan, to a run, to artifacts in a store."""
