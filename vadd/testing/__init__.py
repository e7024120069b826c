"""Checks for your own parts, and reference values by enumeration."""

from vadd.testing.contracts import check_denoiser, check_prior, check_recognition, check_schedule

__all__ = ["check_denoiser", "check_prior", "check_recognition", "check_schedule"]
