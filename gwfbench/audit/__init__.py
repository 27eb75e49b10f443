"""Questions to finished runs: status, new metrics, verification, calibration of metrics."""
