"""Teach, distill and prune: the stages that train, on torch."""
