"""Probes: features of tiles that know no label, closed-form readers on top, and their refitted permutation nulls."""
