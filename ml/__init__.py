"""Anomaly detection on telemetry: online models whose confidence is a measured share of real alerts."""
