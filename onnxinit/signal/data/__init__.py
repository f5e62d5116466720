"""Calibration data: what a file, a folder or Python gives, checked against the model's inputs; or made up."""
