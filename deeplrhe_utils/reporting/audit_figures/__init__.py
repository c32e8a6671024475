"""Figures of the audits: planted truth, leakage, controls, precision, claims."""
